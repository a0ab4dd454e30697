"""Tokens with names, for whoever asks a daemon over HTTP: each may read, write or administer until it is revoked.

They lie in the state folder and in no database. A token opens the door of this host's daemon, which leads to all of its
pg_envs; it is looked at when Postgres is away too; and whoever writes to a database, as each worker may, could make
itself one there that may do more. Configuration, then, and never an event.

Kept is the SHA-256 of a token. It is drawn at random, 256 bits of it, so no slower hash would keep it better.
"""

import fcntl
import hashlib
import logging
import os
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec

from damad import statefolder
from damad.errors import ConfigError, Conflict, InvalidInput, NotFound
from damad.model.settings import is_name

FILE: Final = "tokens.json"
Role = Literal["read", "write", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""What a token may do; each may do what those before it may."""
_PREFIX: Final = "damad_"
"""How a token begins, so that whoever looks for secrets in code knows it for one."""
_BYTES: Final = 32
_WRITABLE_BY_OTHERS: Final = 0o022

log = logging.getLogger(__name__)


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token as the state folder knows it. `pg_env`: the only one that it is good for; None: all, and what is of none.

    `hash`: SHA-256 of the token, in hexadecimal digits.
    """

    name: str
    role: Role
    pg_env: str | None
    made_at: datetime
    hash: str

    def may(self, role: Role) -> bool:
        """True where it may do what needs this role."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Tokens:
    """The tokens of a state folder, as a daemon looks at them: what is made or revoked counts from the next look on."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE
        self._version: tuple[int, ...] | None = None
        self._by_hash: dict[str, Token] = {}

    def find(self, sent: bytes) -> Token | None:
        """The token that somebody sent, if it is one of these."""
        # Looked up by its hash: how long that takes says nothing of any other token.
        return self._now().get(_hash(sent))

    def every(self) -> Collection[Token]:
        """Those that are good now."""
        return self._now().values()

    def _now(self) -> dict[str, Token]:
        version = self._stat()
        if version != self._version:
            self._by_hash = {} if version is None else self._read()
            self._version = version
        return self._by_hash

    def _stat(self) -> tuple[int, ...] | None:
        """What the file is now; another one after each change. None where there is none."""
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size, found.st_mode

    def _read(self) -> dict[str, Token]:
        try:
            return {token.hash: token for token in _read(self._path)}
        except ConfigError as error:
            log.error("no token with a name is taken: %s", error)
            return {}


def add(state_dir: Path, name: str, role: str, *, pg_env: str | None = None) -> str:
    """Makes a token and returns it; nobody can tell it later. Raises InvalidInput, and Conflict for a name in use."""
    if not is_name(name):
        raise InvalidInput(f"{name[:80]!r} is no name for a token: a-z, then a-z 0-9 _, at most 63", pointer="/name")
    found = next((known for known in ROLES if known == role), None)
    if found is None:
        raise InvalidInput(f"role {role[:80]!r} is none of {', '.join(ROLES)}", pointer="/role")
    made = _PREFIX + secrets.token_urlsafe(_BYTES)
    with _held(state_dir):
        known = every(state_dir)
        if name in (token.name for token in known):
            raise Conflict(f"there is a token {name!r} already; revoke it, or choose another name", name=name)
        moment, hash_ = datetime.now(UTC), _hash(made.encode())
        _write(state_dir, [*known, Token(name=name, role=found, pg_env=pg_env, made_at=moment, hash=hash_)])
    return made


def every(state_dir: Path) -> list[Token]:
    """The tokens with names, oldest first. Raises ConfigError for a file that holds none, or that others can change."""
    path = state_dir / FILE
    return _read(path) if path.exists() else []


def revoke(state_dir: Path, name: str) -> None:
    """Takes a token back: a daemon lets nobody in with it any more. Raises NotFound."""
    with _held(state_dir):
        known = every(state_dir)
        left = [token for token in known if token.name != name]
        if len(left) == len(known):
            raise NotFound(f"there is no token {name[:80]!r}; `damad tokens` lists them", name=name)
        _write(state_dir, left)


def _hash(token: bytes) -> str:
    return hashlib.sha256(token).hexdigest()


def _read(path: Path) -> list[Token]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            found = msgspec.json.decode(file.read(), type=list[Token])
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"the tokens in {path} cannot be read: {error}") from None
    if mode & _WRITABLE_BY_OTHERS:
        raise ConfigError(f"the tokens in {path} can be changed by others; chmod 600 it")
    return found


def _write(state_dir: Path, tokens: list[Token]) -> None:
    try:
        statefolder.replace(state_dir / FILE, msgspec.json.encode(tokens).decode() + "\n")
    except OSError as error:
        raise ConfigError(f"the tokens in {state_dir / FILE} cannot be written: {error.strerror}") from None


@contextmanager
def _held(state_dir: Path) -> Iterator[None]:
    """Whoever else makes or revokes one waits meanwhile."""
    statefolder.prepare(state_dir)
    folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
