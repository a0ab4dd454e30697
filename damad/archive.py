"""Archives what has ended, and puts it back: `damad archive`.

An archive is a gzip file of JSON lines: what it is, the contexts, their events, and last the SHA-256 of those lines.
It is on the disk, under its name, before anything is removed. Whoever dies in between leaves both, and nothing is lost:
what is archived once more, or put back while it is there, is the same again.
"""

import asyncio
import fcntl
import gzip
import hashlib
import os
import secrets
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from damad import context, failpoints
from damad.errors import ConfigError, InvalidInput
from damad.eventstore import removal
from damad.eventstore.removal import Snapshot, Which

FORMAT: Final = 1
_LINES: Final = 500
_BYTES: Final = 4_000_000
"""Lines that are put back together, and after so many bytes no further one; and bytes that are packed together."""
_DRAFT: Final = "*-*T*Z-*.jsonl.part"
"""What an archive is called while it is written."""


class Archived(msgspec.Struct, frozen=True):
    """What matched, the file that holds it (None: nothing was written), and how many of the contexts were removed.

    One that changed meanwhile stays, with its tree.
    """

    contexts: int
    events: int
    file: str | None
    removed: int


class Imported(msgspec.Struct, frozen=True):
    """How many contexts and events an archive holds, and how many of them were put back: the others are there."""

    contexts: int
    events: int
    restored_contexts: int
    restored_events: int


class _Ids(msgspec.Struct):
    etl_context_id: int
    event_id: int = 0


class _Line(msgspec.Struct):
    context: msgspec.Raw = msgspec.Raw()
    event: msgspec.Raw = msgspec.Raw()


class _Seal(msgspec.Struct):
    sha256: str
    contexts: int
    events: int


async def archive(which: Which, *, to: Path, dry_run: bool = False) -> Archived:
    """Writes the whole ended trees that match into a file in the folder `to`, and then removes them.

    Raises Conflict for who does not own the log, ConfigError where the file cannot be written, Unavailable.
    """
    ambient = context.current()
    database = ambient.store.database
    await removal.require_owner(database)
    async with removal.snapshot(database) as seen:
        found = await seen.archivable(which)
        if dry_run or not found.ids:
            return Archived(len(found.ids), found.events, None, 0)
        try:
            file = await _write(seen, found, to, ambient.pg_env)
        except OSError as error:
            raise ConfigError(f"the archive cannot be written to {to}: {error.strerror or error}") from None
    failpoints.hit("archive.written")
    removed = await removal.remove(database, found)
    return Archived(len(found.ids), found.events, str(file), removed)


async def import_(file: Path) -> Imported:
    """Puts back what an archive holds and the log does not, all or nothing.

    Raises InvalidInput for what is no whole archive, Conflict where an id or a key is taken by something else.
    """
    database = context.current().store.database
    seal = await asyncio.to_thread(_checked, file)
    await removal.require_owner(database)
    async with removal.restoring(database) as going:
        for contexts, events in _some(file):
            if contexts:
                await going.add_contexts([ids.etl_context_id for ids, _ in contexts], [line for _, line in contexts])
            if events:
                last = max(ids.event_id for ids, _ in events)
                await going.add_events([ids.etl_context_id for ids, _ in events], [line for _, line in events], last)
    return Imported(seal.contexts, seal.events, going.contexts, going.events)


async def _write(seen: Snapshot, found: removal.Archivable, to: Path, pg_env: str) -> Path:
    """Written beside, synced and then renamed: under its name there is a whole archive or none."""
    to.mkdir(parents=True, exist_ok=True, mode=0o700)
    _drop_torn(to)
    now = datetime.now(UTC)
    file = to / f"{pg_env}-{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}.jsonl.gz"
    draft = file.with_suffix(".part")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as raw:
            fcntl.flock(raw, fcntl.LOCK_EX)
            with gzip.GzipFile(fileobj=raw, mode="wb", filename="", compresslevel=6) as packed:
                sum_ = hashlib.sha256()
                head = {"damad_archive": FORMAT, "pg_env": pg_env, "at": now.isoformat()}
                _put(packed, sum_, msgspec.json.encode(head) + b"\n")
                async for lines in _together(seen.lines(found)):
                    await asyncio.to_thread(_put, packed, sum_, lines)  # a daemon answers others meanwhile
                raw.flush()
                failpoints.hit("archive.writing")
                packed.write(msgspec.json.encode(_Seal(sum_.hexdigest(), len(found.ids), found.events)) + b"\n")
            raw.flush()
            await asyncio.to_thread(os.fsync, raw.fileno())
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(to)
    return file


def _drop_torn(folder: Path) -> None:
    """Removes what others left behind that died while they wrote: it is no archive, and nothing was removed for it."""
    for draft in folder.glob(_DRAFT):
        with suppress(OSError), draft.open("rb") as file:  # BlockingIOError: somebody is at it
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.unlink()


async def _together(lines: AsyncIterator[str]) -> AsyncIterator[bytes]:
    """Lines, many at a time."""
    some = bytearray()
    async for line in lines:
        some += line.encode() + b"\n"
        if len(some) >= _BYTES:
            yield bytes(some)
            some.clear()
    yield bytes(some)


def _put(packed: gzip.GzipFile, sum_: Any, lines: bytes) -> None:
    packed.write(lines)
    sum_.update(lines)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checked(file: Path) -> _Seal:
    """Reads an archive to its end. Raises InvalidInput unless it is as it was written."""
    sum_, last = hashlib.sha256(), b""
    try:
        with gzip.open(file) as lines:
            head = lines.readline()
            sum_.update(head)
            if msgspec.json.decode(head, type=dict[str, Any]).get("damad_archive") != FORMAT:
                raise InvalidInput(f"{file} is no archive that this damad reads")
            for line in lines:
                sum_.update(last)
                last = line
        seal = msgspec.json.decode(last, type=_Seal)
    except OSError as error:
        raise InvalidInput(f"{file}: {error.strerror or error}") from None
    except (EOFError, zlib.error, msgspec.DecodeError):
        raise InvalidInput(f"{file} is no archive, or not a whole one") from None
    if seal.sha256 != sum_.hexdigest():
        raise InvalidInput(f"{file} is not as it was written: its checksum is wrong")
    return seal


_Group = tuple[list[tuple[_Ids, str]], list[tuple[_Ids, str]]]


def _some(file: Path) -> Iterator[_Group]:
    """The contexts and events of a checked archive, some at a time."""
    with gzip.open(file) as lines:
        contexts: list[tuple[_Ids, str]] = []
        events: list[tuple[_Ids, str]] = []
        size = 0
        for line in lines:
            read = msgspec.json.decode(line, type=_Line)
            for kind, raw in ((contexts, read.context), (events, read.event)):
                if len(raw):
                    kind.append((msgspec.json.decode(raw, type=_Ids), bytes(raw).decode()))
                    size += len(raw)
            if len(contexts) + len(events) >= _LINES or size >= _BYTES:
                yield contexts, events
                contexts, events, size = [], [], 0
        yield contexts, events
