"""schedules: what queues tasks by the clock."""

import sys
from datetime import datetime
from typing import Annotated, Any

from cyclopts import App, Parameter

from damad.cli.options import Json, Payload, Settings, Where

schedules = App(name="schedules", help="List schedules; add, remove, pause, resume, trigger one.")


@schedules.default
def list_(*, json: Json = False, where: Where | None = None) -> int:
    """List the schedules."""
    from damad.cli import session

    return session.go(_list(json, where or Where()))


async def _list(json: bool, where: Where) -> int:
    from damad import schedules as core
    from damad.cli import render, session

    async with session.opened(where):
        found = await core.page()
    if json:
        render.as_json([core.shown(read.schedule) for read in found])
    else:
        render.schedules(found)
    return 0


@schedules.command
def add(
    name: str,
    cron: str,
    worker: str,
    /,
    *,
    zone: str | None = None,
    payload: Payload = None,
    overlap: str | None = None,
    missed: str | None = None,
    missed_within: str | None = None,
    jitter: str | None = None,
    paused: Annotated[bool, Parameter(negative="")] = False,
    settings: Settings | None = None,
    json: Json = False,
    where: Where | None = None,
) -> int:
    """Add a schedule, which queues a task at each tick of a cron.

    Parameters
    ----------
    name
        What it is called.
    cron
        Five fields, or six with seconds first, or @hourly, @daily, @weekly, @monthly, @yearly.
    worker
        A file inside a worker root, absolute or relative to it.
    zone
        The IANA time zone that the cron is read in (UTC).
    payload
        JSON, @FILE, or - for stdin.
    overlap
        What a tick does while a task of the schedule has not ended: skip (the default), buffer_one, buffer_all,
        cancel_other, terminate_other or allow_all.
    missed
        What becomes of ticks that came while no daemon was there: skip, one (the default) or all.
    missed_within
        How old such a tick may be.
    jitter
        Start each task somewhat later, by up to this duration.
    paused
        Add it, but let it not tick yet.
    """
    from damad.cli import session

    own = {"zone": zone, "overlap": overlap, "missed": missed, "missed_within": missed_within, "jitter": jitter}
    given = {**own, "cron": cron, "paused": paused}
    return session.go(_add(name, worker, payload, given, settings or Settings(), json, where or Where()))


async def _add(
    name: str, worker: str, payload: str | None, own: dict[str, Any], settings: Settings, json: bool, where: Where
) -> int:
    import msgspec

    from damad import schedules as core
    from damad.cli import session
    from damad.cli.queueing import request

    asked = request(worker, payload, settings)
    named = {field: getattr(asked, field) for field in ("worker", "payload", "parent_context_id", "source_id", "meta")}
    async with session.opened(where):
        read = await core.add(name, **{**named, **msgspec.structs.asdict(asked)["settings"], **own})
        _said(read, json)
    return 0


@schedules.command
def remove(name: str, /, *, where: Where | None = None) -> int:
    """Remove a schedule. The tasks that it made stay."""
    from damad.cli import session

    return session.go(_remove(name, where or Where()))


async def _remove(name: str, where: Where) -> int:
    from damad import schedules as core
    from damad.cli import session

    async with session.opened(where):
        await core.remove(name)
    print(f"schedule {name} is removed", file=sys.stderr)
    return 0


@schedules.command
def pause(name: str, /, *, json: Json = False, where: Where | None = None) -> int:
    """Let a schedule make no tasks until it is resumed."""
    from damad import schedules as core
    from damad.cli import session

    return session.go(_change(core.pause, name, json, where or Where()))


@schedules.command
def resume(name: str, /, *, json: Json = False, where: Where | None = None) -> int:
    """Let a schedule tick again, from now on."""
    from damad import schedules as core
    from damad.cli import session

    return session.go(_change(core.resume, name, json, where or Where()))


async def _change(function: Any, name: str, json: bool, where: Where) -> int:
    from damad.cli import session

    async with session.opened(where):
        _said(await function(name), json)
    return 0


@schedules.command
def trigger(name: str, /, *, json: Json = False, where: Where | None = None) -> int:
    """Queue a task of a schedule now, and print its etl_context_id."""
    from damad.cli import session

    return session.go(_trigger(name, json, where or Where()))


async def _trigger(name: str, json: bool, where: Where) -> int:
    from damad import schedules as core
    from damad.cli import render, session

    async with session.opened(where):
        queued = await core.trigger(name)
    render.as_json({"etl_context_id": queued.etl_context_id}) if json else print(queued.etl_context_id)
    return 0


@schedules.command(name="next")
def next_(
    name: str,
    /,
    *,
    count: Annotated[int, Parameter(name=["--count", "-n"])] = 5,
    json: Json = False,
    where: Where | None = None,
) -> int:
    """Print the next runs of a schedule, in its zone.

    Parameters
    ----------
    count
        How many.
    """
    from damad.cli import session

    return session.go(_next(name, count, json, where or Where()))


async def _next(name: str, count: int, json: bool, where: Where) -> int:
    from zoneinfo import ZoneInfo

    from damad import schedules as core
    from damad.cli import render, session

    async with session.opened(where):
        read = await core.get(name)
    runs = core.next_runs(read, count)
    if json:
        render.as_json(runs)
    else:
        for run in runs:
            print(run.astimezone(ZoneInfo(read.schedule.zone)).isoformat())
    return 0


@schedules.command
def backfill(
    name: str,
    /,
    *,
    begin: Annotated[str, Parameter(name="--from")],
    until: str,
    json: Json = False,
    where: Where | None = None,
) -> int:
    """Queue a task for every tick of a range that has made none, all at once, and print their ids.

    Parameters
    ----------
    begin
        An RFC 3339 time with offset.
    until
        Another one, which is over.
    """
    from damad.cli import session

    return session.go(_backfill(name, _moment(begin, "--from"), _moment(until, "--until"), json, where or Where()))


async def _backfill(name: str, begin: datetime, until: datetime, json: bool, where: Where) -> int:
    from damad import schedules as core
    from damad.cli import render, session

    async with session.opened(where):
        queued = await core.backfill(name, begin, until)
    if json:
        render.as_json(queued)
    else:
        for tick in queued:
            print(tick.etl_context_id)
    return 0


def _moment(text: str, flag: str) -> datetime:
    from damad.errors import InvalidInput

    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidInput(f"{flag} {text!r} is no RFC 3339 time with offset, like 2026-01-31T08:00:00+01:00")
    return moment


def _said(read: Any, json: bool) -> None:
    from damad import schedules as core
    from damad.cli import render

    schedule = read.schedule
    if json:
        render.as_json(core.with_runs(read, 5))
        return
    runs = core.next_runs(read, 1)
    when = "paused" if schedule.paused else f"next at {runs[0].isoformat()}" if runs else "never again"
    print(f"schedule {schedule.name}: {when}", file=sys.stderr)
