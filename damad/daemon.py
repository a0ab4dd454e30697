"""The daemon: puts the parts together and runs them as one group, until a signal asks it to stop.

    configuration → state folder → port and socket → Postgres → schema → one TaskGroup {HTTP, and for each pg_env a
    supervisor and the ticks of its schedules}

Stopping leaves the workers' processes alone: the next daemon finds them by their records.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final, NoReturn

import structlog
import uvloop

from damad import config, context, spans, statefolder, stderrlog, systemd, tokens
from damad.backoff import Backoff
from damad.config import Config
from damad.errors import Unavailable, unwrapped
from damad.eventstore import listener
from damad.eventstore.embedded import EmbeddedPostgres
from damad.eventstore.migrate import migrate
from damad.eventstore.pools import Database
from damad.eventstore.serving import Host, refuse_twin, serving
from damad.http.app import make_app
from damad.http.listening import Addresses, serve, taken
from damad.scheduler.retention import Retention
from damad.scheduler.runners import Runners
from damad.scheduler.supervisor import Supervisor
from damad.scheduler.ticks import Ticks

log = structlog.get_logger()

LOCK_TIMEOUT: Final = 3.0
"""Seconds until a request gives up on a context that somebody holds in an open transaction."""
SUPERVISOR_LOCK_TIMEOUT: Final = 0.2
"""Seconds until the supervisor does: it comes back to that one, and others wait for it."""
ANSWER_TIMEOUT: Final = 15.0
"""Seconds until the daemon takes a connection for lost on which a statement is not answered."""
_GARBAGE: Final = 10_000
"""Objects from which cycles among them are looked for. Under load the usual 700 cost a twelfth of a request's time."""


def main(settings: Config) -> None:
    """Runs the daemon until SIGTERM or SIGINT, which end the process. Raises whatever stops it from starting."""
    stderrlog.configure(logging.INFO, form=settings.log_format, about=context.log_fields)
    statefolder.prepare(settings.state_dir)
    with statefolder.only_daemon(settings.state_dir), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        with unwrapped():
            runner.run(_serve(settings))
        _end_at_once()


def _end_at_once() -> NoReturn:
    """All is said and closed; a worker's thread, or its coroutine that swallows cancellations, is not waited for."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


async def _serve(settings: Config) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    exporter = spans.Exporter() if settings.otel else None
    host_id, token = statefolder.make_host_id(settings.state_dir), tokens.first(settings.state_dir)
    async with AsyncExitStack() as stack:
        doors = await stack.enter_async_context(taken(settings))
        runners = await _warm_runners(settings)
        server = await stack.enter_async_context(_embedded(settings))
        databases = [
            await stack.enter_async_context(_database(name, dsn, groups=settings.group_appends))
            for name, dsn in _dsns(settings, server)
        ]
        ready = [await _migrated(database, settings, first=True) for database in databases]
        host = Host(host_id, settings.state_dir / statefolder.HOST_ID_FILE)
        await _refuse_twins([database for database, migrated in zip(databases, ready, strict=True) if migrated], host)
        app = make_app(_contexts(databases, settings, host_id), settings=settings, token=token)
        addresses = await stack.enter_async_context(serve(app, doors))
        if runners is not None:
            stack.push_async_callback(runners.close)
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(_supervise(database, settings, host, server, runners, migrated))
                for database, migrated in zip(databases, ready, strict=True)
            ]
            _collect_rarely()
            _say_ready(addresses, databases)
            running += [group.create_task(_say_if_degraded(database, addresses, databases)) for database in databases]
            if exporter is not None:
                running += [
                    group.create_task(spans.export_spans(database, exporter, host_id, settings.state_dir))
                    for database in databases
                ]
            await stop.wait()
            systemd.notify(STOPPING="1", STATUS="stopping; workers go on")
            log.info("stopping; workers go on")
            for task in running:
                task.cancel()


def _dsns(settings: Config, server: EmbeddedPostgres | None) -> list[tuple[str, str]]:
    return list(settings.pg_envs.items()) if server is None else [(config.EMBEDDED, server.dsn)]


@asynccontextmanager
async def _embedded(settings: Config) -> AsyncIterator[EmbeddedPostgres | None]:
    if not settings.embedded:
        yield None
        return
    server = EmbeddedPostgres(settings.state_dir)
    await asyncio.to_thread(server.join)
    log.info("no pg_env is configured: running an embedded Postgres", data=str(server.data), psql=server.dsn)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.leave)


async def _warm_runners(settings: Config) -> Runners | None:
    """Lines to runners. The first fork server imports what it has to while Postgres is looked for."""
    if not settings.fork_server:
        return None
    runners, rules = Runners(settings.state_dir, embedded=settings.embedded), settings.queue("default")
    if rules.run_in == "process":
        await runners.warm(rules.preload)
    return runners


@asynccontextmanager
async def _database(
    name: str, dsn: str, *, lock_timeout: float = LOCK_TIMEOUT, groups: bool = False
) -> AsyncIterator[Database]:
    database = Database(
        name, dsn, application_name="damad", lock_timeout=lock_timeout, answer_timeout=ANSWER_TIMEOUT, groups=groups
    )
    try:
        yield database
    finally:
        await database.close()


async def _migrated(database: Database, settings: Config, *, first: bool = False) -> bool:
    """True once the schema is up to date. The first look does not wait for a Postgres that is away."""
    if not settings.auto_migrate:
        return True
    backoff = Backoff()
    while True:
        try:
            done = await migrate(database)
        except Unavailable as error:
            log.warning("a pg_env is away", pg_env=database.pg_env, reason=str(error))
            if first:
                return False
        else:
            if done.changed:
                log.info("the schema was brought up to date", pg_env=database.pg_env, version=done.after)
            return True
        await backoff.pause()


async def _refuse_twins(databases: list[Database], host: Host) -> None:
    for database in databases:
        with suppress(Unavailable):  # then `serving` refuses it, once Postgres is there
            await refuse_twin(database, host)


async def _supervise(
    database: Database,
    settings: Config,
    host: Host,
    server: EmbeddedPostgres | None,
    runners: Runners | None,
    migrated: bool,
) -> None:
    async def revive() -> None:
        if server is not None:
            try:
                await asyncio.to_thread(server.join)
            except Unavailable as error:
                log.warning("the embedded Postgres does not start yet", reason=str(error))

    if not migrated:
        await _migrated(database, settings)
    brief = _database(database.pg_env, database.dsn, lock_timeout=SUPERVISOR_LOCK_TIMEOUT)
    async with serving(database, host), brief as own, asyncio.TaskGroup() as group:
        ambient = _contexts([database], settings, host.host_id)[database.pg_env]
        group.create_task(Ticks(ambient, poll_interval=settings.poll_interval).run())
        group.create_task(Retention(ambient, settings.retention, to=settings.state_dir / "archive").run())
        await Supervisor(database, settings, host.host_id, own=own, runners=runners, revive=revive).run()


def _contexts(databases: list[Database], settings: Config, host_id: str) -> dict[str, context.EtlContext]:
    host = context.Host.configured(settings, host_id)
    return {
        database.pg_env: context.EtlContext(pg_env=database.pg_env, database=database, host=host)
        for database in databases
    }


def _collect_rarely() -> None:
    """What was made until now stays, so no collection looks at it again; and one is due after more than a request."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE)


def _say_ready(addresses: Addresses, databases: list[Database]) -> None:
    print(f"damad ready on {addresses.url} and {addresses.socket}", flush=True)
    systemd.notify(READY="1", STATUS=_status(addresses, databases))


def _status(addresses: Addresses, databases: list[Database]) -> str:
    deaf = {database.pg_env: " (degraded: polling)" for database in databases if database.listener().deaf}
    names = ", ".join(database.pg_env + deaf.get(database.pg_env, "") for database in databases)
    return f"serving {names} on {addresses.url}"


async def _say_if_degraded(database: Database, addresses: Addresses, databases: list[Database]) -> None:
    """Says in the log and to systemd, each time once, that a pg_env's listener got deaf or hears again."""
    while True:
        if await database.listener().turn():
            log.warning("degraded: no NOTIFY comes back, as behind a pooler that shares sessions; polling",
                        pg_env=database.pg_env, seconds=listener.DEAF_INTERVAL)  # fmt: skip
        else:
            log.info("not degraded any more: a NOTIFY came back", pg_env=database.pg_env)
        systemd.notify(STATUS=_status(addresses, databases))
