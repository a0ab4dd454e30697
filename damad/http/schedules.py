"""/schedules: adding, changing and removing them, when they tick, and triggering one."""

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web

from damad import schedules
from damad.errors import InvalidInput
from damad.http import cursors, wire
from damad.model.shape import fit

_RUNS: Final = 5
"""Next runs that are shown unless it is said how many."""


class NewSchedule(msgspec.Struct, frozen=True):
    """The name that a new schedule has beside its fields."""

    name: str


class ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which page of the schedules."""

    limit: wire.Limit = 100
    cursor: str | None = None


class ScheduleQuery(msgspec.Struct, frozen=True, kw_only=True):
    """How many of its next runs to show."""

    next: Annotated[int, msgspec.Meta(ge=0, le=1000)] = _RUNS


class RangeFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"begin": "from"}):
    """A range that is to be filled in."""

    begin: datetime
    until: datetime


async def list_schedules(request: web.Request) -> web.Response:
    """GET /schedules: a page, in the order of their names."""
    asked = wire.query(request, ListQuery)
    after = cursors.read_schedules(asked.cursor) if asked.cursor is not None else None
    found = [schedules.shown(read.schedule) for read in await schedules.page(after=after, limit=asked.limit + 1)]
    return wire.page(found, asked.limit, lambda shown: cursors.schedules(shown[-1]["name"]))


async def add_schedule(request: web.Request) -> web.Response:
    """POST /schedules: a new one."""
    wire.query(request, wire.NoQuery)
    given = _object(await wire.read_json(request))
    name = fit(given, NewSchedule).name
    read = await schedules.add(name, **{field: value for field, value in given.items() if field != "name"})
    location = f"/v1/{request.match_info['pg_env']}/schedules/{name}"
    return wire.answer(schedules.with_runs(read, _RUNS), status=201, headers={"Location": location})


async def read_schedule(request: web.Request) -> web.Response:
    """GET /schedules/{name}: a schedule and its next runs."""
    asked = wire.query(request, ScheduleQuery)
    return wire.answer(schedules.with_runs(await schedules.get(_name(request)), asked.next))


async def change_schedule(request: web.Request) -> web.Response:
    """PATCH /schedules/{name}: what is given in place of what it had."""
    wire.query(request, wire.NoQuery)
    given = _object(await wire.read_json(request))
    return wire.answer(schedules.with_runs(await schedules.change(_name(request), **given), _RUNS))


async def remove_schedule(request: web.Request) -> web.Response:
    """DELETE /schedules/{name}."""
    wire.query(request, wire.NoQuery)
    await wire.read_nothing(request)
    await schedules.remove(_name(request))
    return web.Response(status=204)


async def trigger_schedule(request: web.Request) -> web.Response:
    """POST /schedules/{name}/trigger: a task of it, now."""
    wire.query(request, wire.NoQuery)
    await wire.read_nothing(request)
    queued = await schedules.trigger(_name(request))
    location = f"/v1/{request.match_info['pg_env']}/contexts/{queued.etl_context_id}"
    return wire.answer(queued, status=201, headers={"Location": location})


async def backfill_schedule(request: web.Request) -> web.Response:
    """POST /schedules/{name}/backfill: a task for every tick of a range that has made none."""
    wire.query(request, wire.NoQuery)
    asked = fit(await wire.read_json(request), RangeFields)
    return wire.answer(await schedules.backfill(_name(request), asked.begin, asked.until), status=201)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput("a schedule is a JSON object", pointer="")
    return value


def _name(request: web.Request) -> str:
    return request.match_info["name"]
