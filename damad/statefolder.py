"""The state folder: what makes a host a host. It holds the host's id, the token, the socket, logs, run records, locks
and the embedded Postgres."""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from damad.errors import ConfigError

HOST_ID_FILE: Final = "dama_host_id"


def prepare(state_dir: Path) -> None:
    """Makes the folder if need be, for its owner alone. Raises ConfigError where that is not possible."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in ("logs", "runs"):
            (state_dir / name).mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"state_dir {state_dir}: {error.strerror}") from None


def host_id(state_dir: Path) -> str | None:
    """The id of the host, or None where nothing has run on this state folder yet."""
    try:
        return str(UUID((state_dir / HOST_ID_FILE).read_text().strip()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{state_dir / HOST_ID_FILE} does not hold the id of a host: {error}") from None


def make_host_id(state_dir: Path) -> str:
    """The id of the host, drawn once: two that begin at the same time end with the same one."""
    prepare(state_dir)
    if (known := host_id(state_dir)) is not None:
        return known
    try:
        make_once(state_dir / HOST_ID_FILE, f"{uuid4()}\n")
    except OSError as error:
        raise ConfigError(f"{state_dir / HOST_ID_FILE} cannot be made: {error.strerror}") from None
    drawn = host_id(state_dir)
    assert drawn is not None
    return drawn


def make_once(path: Path, text: str) -> None:
    """Makes a file for its owner alone, unless one is there.

    Written beside and then linked: nobody ever sees half of it, and of two who make it one does. Raises OSError.
    """
    with _drafted(path, text) as draft, suppress(FileExistsError):
        os.link(draft, path)


def replace(path: Path, text: str) -> None:
    """Writes a file for its owner alone, in place of one that is there: whoever reads sees the old one or the new.

    Raises OSError.
    """
    with _drafted(path, text) as draft:
        draft.rename(path)


@contextmanager
def _drafted(path: Path, text: str) -> Iterator[Path]:
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def has_daemon(state_dir: Path) -> bool:
    """True while a daemon serves this folder."""
    try:
        fd = os.open(state_dir / "daemon.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@contextmanager
def only_daemon(state_dir: Path) -> Iterator[None]:
    """Holds the folder as its one daemon. Raises ConfigError that names the daemon that is there already."""
    fd = os.open(state_dir / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            raise ConfigError(f"another daemon (pid {other}) serves the state folder {state_dir}") from None
        with suppress(OSError):  # on a full disk the next one is told of "unknown"; the lock is held all the same
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)
