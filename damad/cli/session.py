"""Opens what a command works with: configuration, database, ambient context. No daemon is needed for any of it."""

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec

from damad import config, context, statefolder
from damad.cli.options import Where
from damad.errors import InvalidInput, InvalidJson, NotFound
from damad.eventstore.embedded import EmbeddedPostgres
from damad.eventstore.migrate import migrate
from damad.eventstore.pools import Database
from damad.model import strict_json

T = TypeVar("T")

_LARGEST_ID = 2**63 - 1


def configuration(where: Where, **given: Any) -> config.Config:
    """The configuration, with what the command line said."""
    return config.load({"state_dir": None if where.state_dir is None else str(where.state_dir), **given})


def go(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of an async command."""
    return asyncio.run(coroutine)


@asynccontextmanager
async def opened(
    where: Where,
    settings: config.Config | None = None,
    *,
    schema: bool = True,
    lock_timeout: float | None = None,
) -> AsyncIterator[context.EtlContext]:
    """The ambient context of a command: the pg_env that was named, or the only one. Starts the embedded one if need be.

    schema: make the schema of the embedded one, which nobody else looks after · lock_timeout: seconds until the command
    gives up on a context that somebody holds in an open transaction (None: it waits).

    Raises NotFound for an unknown pg_env, InvalidInput where several are there and none was named.
    """
    settings = settings or configuration(where)
    name = _chosen(where.pg_env, settings)
    host = context.Host.configured(settings, statefolder.host_id(settings.state_dir))
    server = None
    if settings.embedded:
        statefolder.prepare(settings.state_dir)
        server = EmbeddedPostgres(settings.state_dir)
        await asyncio.to_thread(server.join)
    dsn = settings.pg_envs[name] if server is None else server.dsn
    database = Database(name, dsn, application_name="damad cli", lock_timeout=lock_timeout)
    try:
        if server is not None and schema:
            await migrate(database)
        here = context.EtlContext(pg_env=name, database=database, host=host, traceparent=config.traceparent())
        with context.run_in(here) as ambient:
            yield ambient
    finally:
        await database.close()
        if server is not None:
            await asyncio.to_thread(server.leave)


def narrowed(settings: config.Config, pg_env: str | None) -> config.Config:
    """The configuration with that pg_env alone, if one was named. Raises NotFound."""
    if pg_env is None:
        return settings
    name = _chosen(pg_env, settings)
    return msgspec.structs.replace(settings, pg_envs={key: dsn for key, dsn in settings.pg_envs.items() if key == name})


def _chosen(name: str | None, settings: config.Config) -> str:
    known = [config.EMBEDDED] if settings.embedded else sorted(settings.pg_envs)
    if name is None:
        if len(known) > 1:
            raise InvalidInput(f"there are {len(known)} pg_envs; name one with --pg-env: {', '.join(known)}")
        return known[0]
    if name not in known:
        raise NotFound(f"there is no pg_env {name!r}; configured: {', '.join(known)}", pg_env=name)
    return name


def etl_context_id(text: str) -> int:
    """The id that was given. Raises NotFound for what can be none."""
    if not (text.isascii() and text.isdigit() and len(text) < 20) or not 0 < int(text) <= _LARGEST_ID:
        raise NotFound(f"there is no context {text!r}")
    return int(text)


def reference(number: int | None, name: str) -> int | None:
    """The id of another row that a flag names. Raises InvalidInput for what can be none."""
    if number is None or 0 < number <= _LARGEST_ID:
        return number
    what = name.removesuffix("_id").replace("_", " ")
    raise InvalidInput(f"there is no such {what}: {number}", pointer=f"/{name}")


def payload(text: str | None) -> Any:
    """The payload that was given: JSON, @file or - for stdin. Raises InvalidJson."""
    if text is None:
        return None
    if text == "-":
        text = sys.stdin.read()
    elif text.startswith("@"):
        try:
            with open(text[1:], encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"--payload {text}: {error}") from None
    return parse_json(text, "--payload")


def parse_json(text: str, what: str) -> Any:
    """The value that a text holds. Raises InvalidJson, which names `what` was given."""
    try:
        return strict_json.decode(text.encode("utf-8", "surrogateescape"), called=what)[0]
    except InvalidInput as error:
        named = str(error) if what in str(error) else f"{what}: {error}"
        raise InvalidJson(named, pointer=error.pointer) from None
