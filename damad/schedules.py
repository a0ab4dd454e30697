"""What can be done with schedules: add, change and remove them, see when they tick, trigger one, fill in a range.

A schedule is configuration. What comes of it are tasks like any other, whose settings name the schedule and the tick.
Who takes the ticks when their time comes: damad/scheduler/ticks.py. What becomes of a tick: damad/model/ticks.py.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import msgspec

from damad import context, events, queues, tasks, units, workerfile
from damad.errors import InvalidInput, NotFound
from damad.eventstore.schedules import Read, Schedules
from damad.eventstore.store import NewTask, Queued
from damad.model import calendar, settings, shape
from damad.model.event import check_meta
from damad.model.ticks import MISSED, MOST, OVERLAPS, Schedule

__all__ = [
    "add", "backfill", "change", "check", "fault", "get", "next_runs", "page", "pause", "queue_ticks", "remove",
    "resume", "shown", "trigger", "with_runs",
]  # fmt: skip

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
NOT_FOR_SCHEDULES: Final = {
    "start_after": "a schedule says by its cron when its tasks start; jitter spreads them",
    "idempotency_key": "a schedule makes a task for every tick; one key would make them all the same task",
    "singleton_key": "overlap says what becomes of a tick while an older one's task is open",
    "debounce": "it goes by the singleton_key",
    "throttle": "it goes by the singleton_key",
    "parent_context_id": "the tasks of a schedule have no parent",
    "initial_event": "a schedule takes a payload",
}
"""What a task takes and a schedule does not, and why."""
_PASSED_ON: Final = frozenset({"worker", "payload", "source_id", "meta"})
_MOST_RUNS: Final = 1000


class ScheduleFields(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule that is asked for, less its task settings, which stand beside these fields."""

    cron: str
    worker: str
    zone: str = "UTC"
    payload: Any = None
    overlap: str = "skip"
    missed: str = "one"
    missed_within: float | str | None = None
    jitter: float | str = 0
    paused: bool = False
    source_id: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)] | None = None
    meta: dict[str, Any] | None = None


class Tick(msgspec.Struct, frozen=True):
    """A tick, and the task that it made."""

    tick: datetime
    etl_context_id: int


def shown(schedule: Schedule) -> dict[str, Any]:
    """A schedule as everybody sees it (contract, section 5): its task settings stand beside its fields.

    error: what of it does not fit, None where all does.
    """
    plain = {name: getattr(schedule, name) for name in Schedule.__struct_fields__ if name != "settings"}
    own = schedule.settings if isinstance(schedule.settings, dict) else {}
    return {**plain, **own, "error": fault(schedule)}


def with_runs(read: Read, count: int) -> dict[str, Any]:
    """The same with its next ticks: none where it has an error. Raises InvalidInput for too many."""
    described = shown(read.schedule)
    return {**described, "next_runs": next_runs(read, 0 if described["error"] else count)}


def check(schedule: Schedule) -> None:
    """Raises InvalidInput where plain SQL wrote what `add` would have refused: such a schedule makes no task."""
    try:
        _checked(_given(schedule), new_worker=False)
    except InvalidInput as wrong:
        field = (wrong.pointer or "").lstrip("/")
        text = str(wrong) if field in str(wrong) else f"{field}: {wrong}"
        raise InvalidInput(text, pointer=wrong.pointer) from None


def fault(schedule: Schedule) -> str | None:
    """What `check` says of a schedule, None where it is well."""
    try:
        check(schedule)
    except InvalidInput as wrong:
        return str(wrong)
    return None


async def add(name: str, /, **given: Any) -> Read:
    """A new schedule. `given`: cron and worker; zone, payload, overlap, missed, missed_within, jitter, paused,
    source_id, meta; and task settings.

    Raises InvalidInput and InvalidWorker, which say what does not fit, Conflict where there is one of that name.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} is no name: A-Z a-z 0-9 first, then also _ . -, at most 63", pointer="/name")
    fields, task_settings = _checked(given)
    await _check_queueable(given, task_settings)
    when = calendar.parse(fields.cron, fields.zone)
    store = _schedules()
    at, _ = await store.due()
    return await store.add(_values(name, fields, task_settings, next(when.after(at), None)))


async def change(name: str, /, **given: Any) -> Read:
    """A schedule with what is given in place of what it had; None takes back what was given before.

    One that gets another cron or zone, or is resumed, ticks from now on: what came before is over.
    Raises as `add` does, and NotFound.
    """
    if "name" in given:
        raise InvalidInput("a schedule keeps its name", pointer="/name")
    async with events.transaction() as connection:
        was, at = await _schedules().lock(_known(name), on=connection)
        fields, task_settings = _checked({**_given(was), **given}, new_worker="worker" in given)
        await _check_queueable(given, task_settings)
        next_tick = was.next_tick
        if (fields.cron, fields.zone) != (was.cron, was.zone) or (was.paused and not fields.paused):
            next_tick = next(calendar.parse(fields.cron, fields.zone).after(at), None)
        return await _schedules().change(_values(name, fields, task_settings, next_tick), on=connection)


async def remove(name: str) -> None:
    """Removes a schedule. The tasks that it made stay, and go on. Raises NotFound."""
    await _schedules().remove(_known(name))


async def get(name: str) -> Read:
    """A schedule, and what time it is. Raises NotFound."""
    return await _schedules().get(_known(name))


async def page(*, after: str | None = None, limit: int | None = None) -> list[Read]:
    """Schedules in the order of their names, from after a name."""
    return await _schedules().page(after=after, limit=limit)


def next_runs(read: Read, count: int) -> list[datetime]:
    """The next ticks of a schedule, as if it were not paused. Raises InvalidInput for too many, and where it has none
    for what plain SQL wrote."""
    if not 0 <= count <= _MOST_RUNS:
        raise InvalidInput(f"{count} is no number of runs from 0 to {_MOST_RUNS}", parameter="next")
    return read.schedule.calendar.following(read.at, count) if count else []


async def pause(name: str) -> Read:
    """No tick of the schedule makes a task until it is resumed. What runs goes on, what waits waits on."""
    return await change(name, paused=True)


async def resume(name: str) -> Read:
    """The schedule ticks again, from now on."""
    return await change(name, paused=False)


async def trigger(name: str) -> Queued:
    """Queues a task of a schedule now, paused or not, whatever else of it runs.

    Raises NotFound, InvalidWorker, and InvalidInput as `check` does.
    """
    schedule = (await get(name)).schedule
    check(schedule)
    workerfile.resolve(schedule.worker, context.current().here.worker_roots, pointer="/worker")
    new = tasks.new_task(_request(schedule), context.current().here, marks={"schedule": name})
    return (await context.current().store.queue([new]))[0]


async def backfill(name: str, begin: datetime, end: datetime) -> list[Tick]:
    """Queues a task for every tick from one moment to another, both included, that has made none; all at once.

    Raises InvalidInput for a range that is none, has more than a thousand ticks or is not over yet, and NotFound.
    """
    for moment, field in ((begin, "from"), (end, "until")):
        if moment.tzinfo is None or not 1000 <= moment.year <= 9000:
            raise InvalidInput(f"{field} is a time with an offset, in a year like ours", pointer=f"/{field}")
    async with events.transaction() as connection:
        schedule, at = await _schedules().lock(_known(name), on=connection)
        check(schedule)
        if not begin <= end <= at:
            raise InvalidInput("a range goes from a time to a later one, which is over", pointer="/until")
        ticks = schedule.calendar.within(begin - timedelta(microseconds=1), end, at_most=MOST + 1)
        if len(ticks) > MOST:
            raise InvalidInput(f"the range has more than {MOST} ticks; take it in parts", pointer="/from")
        return await queue_ticks(schedule, ticks, on=connection)


async def queue_ticks(schedule: Schedule, ticks: Sequence[datetime], *, on: Any) -> list[Tick]:
    """Queues a task for each tick that has made none. `on`: the transaction that holds the schedule.

    Its worker need not be there: then the task fails, and says so.
    """
    made = await _schedules().made([schedule.event_uuid(tick) for tick in ticks], on=on) if ticks else set()
    fresh = [tick for tick in ticks if schedule.event_uuid(tick) not in made]
    new = [_task_of(schedule, tick) for tick in fresh]
    queued = await context.current().store.queue(new, on=on)
    return [Tick(tick, task.etl_context_id) for tick, task in zip(fresh, queued, strict=True)]


def _known(name: str) -> str:
    """The name, if it can be one. Raises NotFound: what no schedule can be called is not there."""
    if not _NAME.fullmatch(name):
        raise NotFound(f"there is no schedule {name[:80]!r}", schedule=name[:80])
    return name


def _schedules() -> Schedules:
    return Schedules(context.current().store.database)


def _task_of(schedule: Schedule, tick: datetime) -> NewTask:
    marks: dict[str, Any] = {"schedule": schedule.name, "tick": tick.isoformat()}
    if schedule.jitter:
        marks["start_after"] = (tick + timedelta(seconds=schedule.delay(tick))).isoformat()
    new = tasks.new_task(_request(schedule), context.current().here, marks=marks)
    initial = msgspec.structs.replace(new.initial, event_uuid=schedule.event_uuid(tick))
    return msgspec.structs.replace(new, initial=initial)


def _request(schedule: Schedule) -> tasks.TaskRequest:
    passed_on = {name: getattr(schedule, name) for name in _PASSED_ON}
    return tasks.TaskRequest(**passed_on, settings=schedule.settings)


def _given(schedule: Schedule) -> dict[str, Any]:
    """All that a schedule was given, as `add` takes it."""
    if not isinstance(schedule.settings, dict):
        raise InvalidInput("the settings of a schedule are a JSON object", pointer="/settings")
    return {**{field: getattr(schedule, field) for field in ScheduleFields.__struct_fields__}, **schedule.settings}


def _checked(given: Mapping[str, Any], *, new_worker: bool = True) -> tuple[ScheduleFields, dict[str, Any]]:
    """The fields and the task settings of a schedule. Raises InvalidInput, which points at what does not fit."""
    given = {name: value for name, value in given.items() if value is not None}
    for name, why in NOT_FOR_SCHEDULES.items():
        if name in given:
            raise InvalidInput(f"{name} is nothing for a schedule: {why}", pointer=f"/{name}")
    fields = shape.fit(dict(given), ScheduleFields)
    calendar.parse(fields.cron, fields.zone)
    for name, choices in (("overlap", OVERLAPS), ("missed", MISSED)):
        if getattr(fields, name) not in choices:
            raise InvalidInput(f"{name} is one of {', '.join(choices)}", pointer=f"/{name}")
    if new_worker:
        workerfile.resolve(fields.worker, context.current().here.worker_roots, pointer="/worker")
    shape.check_json(fields.payload, "the payload", pointer="/payload")
    check_meta(fields.meta)
    shape.check_json(fields.meta, "meta", pointer="/meta")
    others = {name: value for name, value in given.items() if name not in ScheduleFields.__struct_fields__}
    task_settings = settings.parse({"worker": fields.worker, **others})
    del task_settings["worker"]
    within = None if fields.missed_within is None else units.duration(fields.missed_within, pointer="/missed_within")
    jitter = units.duration(fields.jitter, pointer="/jitter")
    return msgspec.structs.replace(fields, missed_within=within, jitter=jitter), task_settings


async def _check_queueable(given: Mapping[str, Any], task_settings: Mapping[str, Any]) -> None:
    """Raises InvalidInput for what is given now and no task would be queued with."""
    if given.keys() & {"queue", "run_in", *settings.LIMITS}:
        await queues.check_limited(task_settings)
    if given.get("on_failure") is not None:
        workerfile.resolve(given["on_failure"], context.current().here.worker_roots, pointer="/on_failure")


def _values(name: str, fields: ScheduleFields, task_settings: dict[str, Any], next_tick: datetime | None) -> list[Any]:
    """In the order of add_schedule.sql."""
    return [
        name, fields.cron, fields.zone, fields.worker, fields.payload, fields.overlap, fields.missed,
        fields.missed_within, fields.jitter, fields.paused, task_settings, fields.source_id, fields.meta, next_tick,
    ]  # fmt: skip
