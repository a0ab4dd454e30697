"""The course of a bench: every part, several times, each beside its yardsticks; and the document that comes of it."""

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import msgspec

from damad import __version__
from damad.bench import draining, figures, growing, queueing, resting, streaming
from damad.bench.figures import Comparison, Curve, Document, Line, Point
from damad.bench.goals import GOALS, SMALL, Goal
from damad.bench.ground import Ground, ground
from damad.bench.sizes import Sizes
from damad.bench.yardsticks import YARDSTICKS, Measure
from damad.errors import DamadError
from damad.eventstore.pools import Database

PARTS: Final[tuple[tuple[tuple[str, ...], Measure], ...]] = (
    (("append.http",), queueing.append_http),
    (("queue.one",), queueing.queue_one),
    (("queue.many",), queueing.queue_many),
    (("http.one", "http.many"), queueing.queue_http),
    (("drain.daemon",), draining.drain_daemon),
    (("drain.process",), draining.drain_process),
    (("start.daemon.p50", "start.daemon.p99"), draining.start_daemon),
    (("start.process.p50", "start.process.p99"), draining.start_process),
    (("stream.p50", "stream.p99"), streaming.stream),
    (("growth.append", "growth.queue", "growth.drain"), growing.growth),
    (("verify", "rebuild"), growing.reading),
    (("verify.memory", "rebuild.memory"), growing.reading_memory),
    (("idle.memory", "idle.whole", "idle.cpu", "idle.queries"), resting.idle),
    (("waiting.memory",), resting.waiting),
    (("adopt",), resting.adopt),
    (("slot.p99",), draining.slots),
    (("slot.keys.p99",), draining.slots_of_keys),
    (("feed.p50", "feed.p99"), streaming.feed),
)
"""Each part: the lines that it measures, and how."""
_ONCE: Final = frozenset({growing.reading_memory})
"""What takes long, and does not vary."""

_BY_KEY: Final = {goal.key: goal for goal in GOALS}


class Taken:
    """The samples of a bench: of each part, run by run, what it and its yardsticks gave."""

    def __init__(self) -> None:
        self.samples: dict[str, list[Mapping[str, float]]] = {}
        self.failures: dict[str, str] = {}


async def run(
    beside: Database, state_dir: Path, sizes: Sizes, *, only: Sequence[str] = (), say: Callable[[str], None] = print
) -> Document:
    """Runs the whole bench, or the lines whose keys begin with one of `only`. `say` is told what is being measured."""
    began, clock, taken = datetime.now(UTC), perf_counter(), Taken()
    parts = [(keys, part) for keys, part in PARTS if not only or any(key.startswith(tuple(only)) for key in keys)]
    async with ground(beside, state_dir, sizes) as here:
        await here.site("yardsticks")  # what is refused for one is refused for all: now, and not line by line
        postgres = dict((await beside.fetch("bench_server"))[0])
        for number in range(sizes.runs):
            for keys, part in parts:
                if number and part in _ONCE:
                    continue
                say(f"run {number + 1} of {sizes.runs}: {_BY_KEY[keys[0]].title}")
                await _take(here, keys, part, number, taken)
    wanted = {key for keys, _ in parts for key in keys}
    return Document(
        version=__version__,
        began=began.isoformat(timespec="seconds"),
        seconds=round(perf_counter() - clock, 1),
        runs=sizes.runs,
        machine=_machine(),
        postgres=postgres,
        sizes=msgspec.to_builtins(sizes),
        lines=tuple(_line(goal, taken, sizes) for goal in GOALS if goal.key in wanted),
        curves=tuple(_curves(taken, sizes)),
    )


async def _take(
    here: Ground,
    keys: tuple[str, ...],
    part: Measure,
    number: int,
    taken: Taken,
) -> None:
    """One run of a part and its yardsticks; which of them comes first changes from run to run, so that no drift of
    the machine's speed is on the side of one."""
    asked = {against.yardstick for key in keys for against in _BY_KEY[key].against}
    steps = [part, *(measure for names, measure in YARDSTICKS if names & asked)]
    sample: dict[str, float] = {}
    try:
        for step in steps if number % 2 == 0 else reversed(steps):
            sample |= await step(here)
    except (DamadError, TimeoutError) as error:
        taken.failures.update(dict.fromkeys(keys, f"{type(error).__name__}: {error}"))
    else:
        for key in keys:
            taken.samples.setdefault(key, []).append(sample)


def _line(goal: Goal, taken: Taken, sizes: Sizes) -> Line:
    line = Line(
        key=goal.key, title=goal.title, unit=goal.unit, better=goal.better, goal=goal.goal, wanted=goal.wanted,
        failed=taken.failures.get(goal.key),
    )  # fmt: skip
    if line.failed:
        return line
    samples = taken.samples[goal.key]
    ours = [sample[goal.key] for sample in samples]
    compared = []
    for against in goal.against:
        theirs = [sample.get(f"{goal.key}/{against.yardstick}", sample.get(against.yardstick)) for sample in samples]
        compared.append(_compared(ours, [value for value in theirs if value is not None], goal, against))
    damad = figures.figure(ours)
    if (short := _short(goal, sizes)) is not None:  # a goal is met or missed at its own size only
        compared = [msgspec.structs.replace(each, met=None) for each in compared]
        return msgspec.structs.replace(line, damad=damad, compared=tuple(compared), short=short)
    verdicts = [figures.is_met(damad.median, goal.wanted, goal.better), *(each.met for each in compared)]
    judged = [verdict for verdict in verdicts if verdict is not None]
    return msgspec.structs.replace(line, damad=damad, compared=tuple(compared), met=all(judged) if judged else None)


def _short(goal: Goal, sizes: Sizes) -> str | None:
    """Why the goal is not judged by what was measured, or None."""
    for name, wanted in goal.at.items():
        if (had := getattr(sizes, name)) < wanted:
            return f"measured with {had:,} {name.replace('_', ' ')}, not {wanted:,}"
    return None


def _compared(ours: Sequence[float], theirs: Sequence[float], goal: Goal, against: Any) -> Comparison:
    ratio = figures.ratio(ours, theirs)
    return Comparison(
        yardstick=against.yardstick, figure=figures.figure(theirs), ratio=ratio, wanted=against.wanted,
        met=figures.is_met(ratio.median, against.wanted, goal.better),
    )  # fmt: skip


def _curves(taken: Taken, sizes: Sizes) -> Iterator[Curve]:
    for key in growing.CURVES:
        if (samples := taken.samples.get(key)) and key not in taken.failures:
            yield Curve(key=key, points=tuple(_point(f"{key}@{events}", events, samples) for events in sizes.grown))


def _point(name: str, events: int, samples: Sequence[Mapping[str, float]]) -> Point:
    ours = [sample[name] for sample in samples]
    ratio = figures.ratio(ours, [sample[f"{name}/{SMALL}"] for sample in samples])
    return Point(events=events, damad=figures.figure(ours), ratio=ratio)


def _machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(each, 2) for each in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }
