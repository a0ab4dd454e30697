"""What can be done with queues: look at them, pause and resume them, set how they run, while daemons run.

What is set is kept in the database and counts for all hosts; where nothing is set, each host's own configuration does.
Daemons take up a change at once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from damad import config, context, workerfile
from damad.errors import InvalidInput, NotFound
from damad.eventstore import queues as stored_queues
from damad.eventstore import serving
from damad.eventstore.queues import Depth
from damad.eventstore.store import State, TaskState
from damad.model import limits, settings
from damad.model import queue as model
from damad.model.queue import StoredQueue
from damad.model.settings import is_name

__all__ = ["QueueState", "change", "check_limited", "every", "explained", "get", "in_force", "pause", "resume"]


class QueueState(msgspec.Struct, frozen=True, kw_only=True):
    """A queue as everybody sees it: how it runs, as it counts on this host, and what is in it.

    settings: for tasks that do not say · depth: the tasks that wait for nothing but a slot · oldest_age: seconds since
    the first of these could have run · running: those that somebody holds, on all hosts · states: how many tasks that
    have not ended are in which state.
    """

    name: str
    paused: bool
    concurrency: int
    global_concurrency: int | None
    key_concurrency: int | None
    rate: str | None
    key_rate: str | None
    aging: float | None
    shared: bool
    run_in: str
    settings: dict[str, Any]
    depth: int
    oldest_age: float | None
    running: int
    states: dict[str, int]


async def every() -> list[QueueState]:
    """`default`, and the queues that were set, are configured here, or hold a task which has not ended; by name."""
    return await _all()


async def get(name: str) -> QueueState:
    """One queue. Raises NotFound for one that nobody set or configured here, and that holds no task."""
    found = {queue.name: queue for queue in await _all(name)} if is_name(name) else {}
    if name not in found:
        raise NotFound(f"there is no queue {name[:80]!r}")
    return found[name]


async def change(name: str, given: Mapping[str, Any], *, pointer: str = "") -> QueueState:
    """Sets fields of a queue and task settings for tasks that do not say; makes it if need be.

    A None takes back what was set: then the host's own configuration counts again.
    Raises InvalidInput, which names what does not fit.
    """
    if not is_name(name):
        raise InvalidInput(f"queue {name[:80]!r} is no name: a-z, then a-z 0-9 _, at most 63", parameter="name")
    wanted = model.parse(given, pointer=pointer)
    await _check_limits_hold(name, wanted, pointer)
    if (on_failure := wanted.settings.get("on_failure")) is not None:
        workerfile.resolve(on_failure, context.current().here.worker_roots, pointer=f"{pointer}/on_failure")
    await stored_queues.change(context.current().store.database, name, wanted)
    return await get(name)


async def pause(name: str) -> QueueState:
    """Nothing more is taken from the queue; what runs goes on. Raises InvalidInput for what is no name."""
    return await change(name, {"paused": True})


async def resume(name: str) -> QueueState:
    """Tasks are taken from the queue again. Raises InvalidInput for what is no name."""
    return await change(name, {"paused": False})


async def in_force(name: str) -> config.Queue:
    """How a queue runs on this host: as it is configured here, and over that what is set in the database."""
    ctx = context.current()
    stored = await stored_queues.stored(ctx.store.database, name)
    return ctx.here.queue(name).under(stored.get(name))


async def _check_limits_hold(name: str, wanted: model.Change, pointer: str) -> None:
    """Raises InvalidInput where its tasks would run in the daemon, and a limit is set that only a process has."""
    if limits.given(wanted.settings) or wanted.fields.get("run_in") is not None:
        was = await in_force(name)
        run_in = wanted.fields["run_in"] if wanted.fields.get("run_in") is not None else was.run_in
        settings.check_limits_hold({**was.defaults, **wanted.settings}, run_in, pointer=pointer)


async def check_limited(recorded: Mapping[str, Any], *, pointer: str = "") -> None:
    """Raises InvalidInput for the settings of a new task with a limit that its queue cannot keep: it has no process."""
    if limits.given(recorded) and recorded.get("run_in") is None:
        run_in = (await in_force(recorded.get("queue", "default"))).run_in
        settings.check_limits_hold(recorded, run_in, pointer=pointer)


async def explained(states: Sequence[State]) -> list[State]:
    """The states, and in each of a task that could run, `held`: why it does not, where its queue or its host is the
    reason, and what to do. Three statements, however many they are, and none where no task could run."""
    ready = [state for state in states if isinstance(state, TaskState) and state.state in ("queued", "retrying")]
    if not ready:
        return [*states]
    ctx, names = context.current(), {state.queue for state in ready}
    stored = await stored_queues.stored(ctx.store.database, *(names if len(names) == 1 else ()))
    rules = {name: ctx.here.queue(name).under(stored.get(name)) for name in names}
    hosts = {state.etl_context_id: _host(state, rules[state.queue]) for state in ready}
    served = await serving.served(ctx.store.database, {*hosts.values()})

    def held(state: TaskState) -> str | None:
        name, host = state.queue, hosts[state.etl_context_id]
        if name in stored and stored[name].paused:
            return f"queue {name!r} is paused; resume it with `damad queues resume {name}`"
        if rules[name].concurrency == 0 and host in (None, ctx.here.host_id):
            return f"queue {name!r} has concurrency 0 here; raise it with `damad queues set {name}`"
        if (why := _too_heavy(state, rules[name], stored.get(name), here=host in (None, ctx.here.host_id))) is not None:
            return why
        if host not in served:
            whom = "it" if host is None else f"host {host}, where it is to run"
            return f"no daemon serves {whom}; start one with `damad serve`"
        return None

    ids = {state.etl_context_id for state in ready}
    return [
        msgspec.structs.replace(state, held=held(state))
        if isinstance(state, TaskState) and state.etl_context_id in ids
        else state
        for state in states
    ]


def _too_heavy(state: TaskState, rules: config.Queue, stored: StoredQueue | None, *, here: bool) -> str | None:
    """What to do about a task that weighs more than its queue has slots in the whole; None where it fits."""
    weight, name = settings.weight_of(state.settings), state.queue
    wholes = {
        "global_concurrency": stored.global_concurrency if stored else None,
        "concurrency": rules.concurrency if here else None,
    }
    for limit, slots in wholes.items():
        if slots is not None and weight > slots:
            what = f"its weight is {weight}, and queue {name!r} has {limit} {slots}{' here' * (limit == 'concurrency')}"
            return f"{what}; raise it with `damad queues set {name}`"
    return None


def _host(state: TaskState, rules: config.Queue) -> str | None:
    """The host that a task is to run on, or None where it is any."""
    return None if rules.shared or state.host_id is None else str(state.host_id)


async def _all(only: str | None = None) -> list[QueueState]:
    ctx = context.current()
    stored = await stored_queues.stored(ctx.store.database, only)
    depths: dict[str, list[Depth]] = {}
    for depth in await stored_queues.depths(ctx.store.database, only):
        depths.setdefault(depth.queue, []).append(depth)
    configured = [name for name in {"default", *ctx.here.queues} if only in (None, name)]
    names = sorted({*stored, *depths, *configured})
    return [_state(name, stored.get(name), depths.get(name, [])) for name in names]


def _state(name: str, stored: StoredQueue | None, depths: list[Depth]) -> QueueState:
    in_force = context.current().here.queue(name).under(stored)
    stored = stored or StoredQueue(name=name)
    states = {depth.state: depth.number for depth in depths}
    ages = [depth.oldest_age for depth in depths if depth.oldest_age is not None]
    return QueueState(
        name=name,
        paused=bool(stored.paused),
        concurrency=in_force.concurrency,
        global_concurrency=stored.global_concurrency,
        key_concurrency=stored.key_concurrency,
        rate=stored.rate,
        key_rate=stored.key_rate,
        aging=stored.aging,
        shared=in_force.shared,
        run_in=in_force.run_in,
        settings=in_force.defaults,
        depth=sum(depth.ready for depth in depths),
        oldest_age=max(ages, default=None),
        running=sum(states.get(state, 0) for state in ("claimed", "running", "cancelling")),
        states=states,
    )
