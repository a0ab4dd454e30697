"""Tokens with names, for whoever asks a daemon over HTTP: each may read, write or administer until it is revoked.

They lie in the state folder and in no database. A token opens the door of this host's daemon, which leads to all of its
pg_envs; it is looked at when Postgres is away too; and whoever writes to a database, as each worker may, could make
itself one there that may do more. Configuration, then, and never an event.

Kept is the SHA-256 of a token. It is drawn at random, 256 bits of it, so no slower hash would keep it better.
"""

import base64
import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

import msgspec

from damad import context, statefolder
from damad.errors import ConfigError, Conflict, InvalidInput, NoContext, NotFound
from damad.model.settings import is_name

FIRST: Final = "token"
FILE: Final = "tokens.json"
Role = Literal["read", "write", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""What a token may do; each may do what those before it may."""
_PREFIX: Final = "damad_"
"""How a token begins, so that whoever looks for secrets in code knows it for one."""
_OF_A_RUN: Final = f"{_PREFIX}run."
_SEALED: Final = re.compile(r"damad_run\.([a-z][a-z0-9_]*)\.([1-9][0-9]{0,18})\.([0-9]{1,18})\.[A-Za-z0-9_-]{43}")
_BYTES: Final = 32
_LONGEST: Final = 4096
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


class Run(NamedTuple):
    """A run that a token is of: its context, and the fence under which it appends."""

    pg_env: str
    etl_context_id: int
    fence: int

    @property
    def name(self) -> str:
        """What it is called as an actor."""
        return f"context:{self.etl_context_id}"


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


def first(state_dir: Path) -> str:
    """The first token, which lies in the state folder, made there if there is none yet, readable by its owner alone.

    Raises ConfigError for a file that others can read, or that holds no token.
    """
    path = state_dir / FIRST
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            statefolder.make_once(path, secrets.token_urlsafe(_BYTES) + "\n")
        except OSError as error:
            raise ConfigError(f"the token in {path} cannot be made: {error.strerror}") from None
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_LONGEST).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token in {path} cannot be read: {error}") from None
    if mode & 0o077:
        raise ConfigError(f"the token in {path} can be read by others; chmod 600 it")
    if not text:
        raise ConfigError(f"there is no token in {path}; remove the file and a new one is made")
    return text


def mine() -> str:
    """The token of the run that asks: with it whoever the worker gives it to may append events over HTTP to the context
    of this run, and nothing else, until the run has ended.

    It is kept nowhere: what it may is in it, under a seal of the first token. When it ends the log says: what is
    appended with it bears the fence of the run. Raises NoContext outside of a run.
    """
    ctx = context.current()
    if ctx.fence is None or ctx.here.state_dir is None:
        raise NoContext("only a run of a task has a token of its own")
    return sealed(Run(ctx.pg_env, context.current_id(), ctx.fence), first(ctx.here.state_dir))


def sealed(run: Run, key: str) -> str:
    """The token of a run. `key`: the first token."""
    text = f"{_OF_A_RUN}{run.pg_env}.{run.etl_context_id}.{run.fence}"
    seal = hmac.digest(key.encode(), text.encode(), "sha256")
    return f"{text}.{base64.urlsafe_b64encode(seal).decode().rstrip('=')}"


def run_of(sent: bytes, key: str) -> Run | None:
    """The run whose token somebody sent; None for what is none, or not sealed with this first token."""
    found = _SEALED.fullmatch(sent.decode("ascii", "replace"))
    if found is None:
        return None
    run = Run(found[1], int(found[2]), int(found[3]))
    return run if hmac.compare_digest(sealed(run, key).encode(), sent) else None


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
