"""Weights: a task takes as many slots as it weighs. What is claimed, what the log says, and what is held."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from daemon_support import Daemon, Site, until
from test_limits import all_done, hosts
from test_queues import ELSEWHERE, claims_of, end, queued, retrying, schedule

from damad import queues, tasks
from damad.context import EtlContext
from damad.eventstore import leases
from damad.eventstore.pools import Database
from damad.eventstore.schedule import FreeSlots, Schedule
from damad.eventstore.store import EventStore
from damad.model.settings import weight_of
from damad.scheduler.decisions import that_fit

__all__ = ["hosts", "schedule"]

Claim = Callable[..., Awaitable[list[int]]]
COURSE = """
SELECT e.etl_context_id AS id, e.type, data_manager.weight_of(t.settings) AS weight, t.host_id::text AS host
  FROM data_manager.event_store e JOIN data_manager.dama_tasks t USING (etl_context_id)
  WHERE t.queue = 'common' AND (e.type = 'dama/task:CLAIMED' OR e.type LIKE '%:FINAL')
  ORDER BY e.event_id
"""


@pytest.fixture(params=["without limits", "within limits"])
def claim(request: pytest.FixtureRequest, ctx: EtlContext, schedule: Schedule) -> Claim:
    """Claims of queue `etl`, which has no limit over all hosts, or one that is far away."""

    async def claimed(slots: int, whole: int | None = None) -> list[int]:
        free = FreeSlots("etl", slots, whole=slots if whole is None else whole)
        if request.param == "without limits":
            return [task.etl_context_id for task in await schedule.claim([free], holder="me", lease=60.0)]
        await queues.change("etl", {"global_concurrency": 1_000_000})
        return [task.etl_context_id for task in await schedule.claim_within_limits(free, holder="me", lease=60.0)]

    return claimed


async def of_weights(store: EventStore, *weights: int, **settings: Any) -> list[int]:
    return [(await queued(store, None, weight=weight, **settings))[0] for weight in weights]


# --- what is claimed ---


async def test_a_task_takes_as_many_slots_as_it_weighs(store: EventStore, claim: Claim) -> None:
    ids = await of_weights(store, 2, 3, 1, 1)
    ids += await queued(store, None)  # which does not say
    assert await claim(5) == ids[:2]
    assert await claim(3) == ids[2:]


async def test_light_tasks_do_not_overtake_a_heavy_one_that_waits_for_slots(store: EventStore, claim: Claim) -> None:
    running = await of_weights(store, 1, 1, 1)
    assert await claim(4, 4) == running
    (heavy,) = await of_weights(store, 4)
    light: list[int] = []
    for free, ends in enumerate(running, start=1):
        light += await of_weights(store, 1)
        assert await claim(free, 4) == []
        await end(store, ends)
    assert await claim(4, 4) == [heavy]
    await end(store, heavy)
    assert await claim(4, 4) == light


async def test_a_higher_priority_comes_before_a_heavy_task_that_waits(store: EventStore, claim: Claim) -> None:
    (heavy,) = await of_weights(store, 4)
    (urgent,) = await of_weights(store, 1, priority=1)
    assert await claim(4, 4) == [urgent]
    assert await claim(4, 4) == [heavy]


@pytest.mark.parametrize("due", [False, True])
async def test_what_weighs_more_than_the_whole_is_passed_by(store: EventStore, claim: Claim, due: bool) -> None:
    heavy = await retrying(store, *[None] * 3, weight=5) if due else await of_weights(store, 5, 5, 5)
    light = await of_weights(store, 4)
    assert await claim(4, 4) == light
    assert await claim(4, 4) == []
    assert await claim(5, 5) == heavy[:1]


async def test_what_is_claimed_is_what_the_rule_says_whatever_is_queued(store: EventStore, claim: Claim) -> None:
    chance = random.Random(7)
    for _ in range(30):
        given = [(chance.randint(-1, 1), chance.choice([1, 1, 2, 3, 6])) for _ in range(chance.randint(1, 12))]
        made = [(*await of_weights(store, weight, priority=priority), priority, weight) for priority, weight in given]
        turns = sorted(made, key=lambda task: (-task[1], task[0]))
        weights, whole = {id_: weight for id_, _, weight in turns}, chance.randint(1, 6)
        while weights:
            slots = chance.randint(0, whole) if chance.random() < 0.5 else whole
            expected = that_fit(weights, slots, whole)
            assert await claim(slots, whole) == expected
            assert sum(weights[id_] for id_ in expected) <= slots
            for id_ in expected:
                del weights[id_]
            if not expected and slots == whole:  # what is left is too heavy, all of it
                assert all(weight > whole for weight in weights.values())
                break
        for id_, _, _ in made:
            await tasks.cancel(id_)


async def test_the_limit_over_all_hosts_counts_slots(
    ctx: EtlContext, store: EventStore, schedule: Schedule, database: Database
) -> None:
    await queues.change("etl", {"global_concurrency": 4})
    two, three, four, _too_heavy, one = await of_weights(store, 2, 3, 4, 5, 1)

    async def claims(by: Schedule) -> list[int]:
        return [
            task.etl_context_id
            for task in await by.claim_within_limits(FreeSlots("etl", 9, whole=9), holder="me", lease=60.0)
        ]

    elsewhere = Schedule(database, ELSEWHERE)
    assert await claims(schedule) == [two]
    assert await claims(elsewhere) == []
    await leases.set_waiting(database, two, 1, True)  # who waits for others holds no slot, whatever it weighs
    assert await claims(elsewhere) == [three]
    await end(store, three)
    assert await claims(schedule) == [four]
    await end(store, four)
    assert await claims(elsewhere) == [one]


async def test_who_is_behind_a_full_key_waits_for_none_that_is_too_heavy(
    ctx: EtlContext, store: EventStore, schedule: Schedule
) -> None:
    await queues.change("etl", {"key_concurrency": 1})
    first, *_ = await queued(store, *["a"] * 1001)
    await queued(store, "b", weight=5)
    (light,) = await queued(store, "b", weight=2)
    claimed = await schedule.claim_within_limits(FreeSlots("etl", 4, whole=4), holder="me", lease=60.0)
    assert [task.etl_context_id for task in claimed] == [first, light]


async def test_rates_and_limits_of_keys_count_tasks_whatever_they_weigh(
    ctx: EtlContext, store: EventStore, schedule: Schedule
) -> None:
    await queues.change("etl", {"rate": "3/1h", "key_concurrency": 2})
    a = await queued(store, "a", "a", "a", weight=3)
    (b,) = await queued(store, "b", weight=3)
    free = FreeSlots("etl", 100, whole=100)
    claimed = await schedule.claim_within_limits(free, holder="me", lease=60.0)
    assert [task.etl_context_id for task in claimed] == [*a[:2], b]


async def test_subtasks_that_run_without_a_daemon_take_slots_by_their_weight(
    ctx: EtlContext, store: EventStore, schedule: Schedule, tmp_path: Path
) -> None:
    for name, more in (("etl", {}), ("all", {"global_concurrency": 9})):
        await queues.change(name, {"concurrency": 3, **more})
    parent = await tasks.queue("ok.py")
    made: dict[str, list[int]] = {"etl": [], "all": []}
    for name, ids in made.items():
        for weight in (4, 2, 2, 1):
            ids.append(await tasks.queue("ok.py", queue=name, weight=weight, parent_context_id=parent))
    claims = claims_of(store.database, tmp_path, ctx.here.host_id)
    claims.learn((await schedule.held()).queues)
    assert await claims.descendants(parent, []) == {ids[1] for ids in made.values()}


@pytest.mark.parametrize(
    "weight",
    [1, 7, 999_999_999, "7", "007", " 7", 7.0, None, 0, -1, 10**9, 10**12, "", "heavy", "1.5", True, [2], {"of": 2}],
)
async def test_the_database_reads_a_weight_as_python_does(database: Database, weight: Any) -> None:
    settings = {"worker": "ok.py", "weight": weight}
    async with database.connection() as connection:
        read = await connection.fetchval("SELECT data_manager.weight_of($1)", settings)
        unfit = await connection.fetchval("SELECT data_manager.unfit_setting($1)", settings)
    assert read == weight_of(settings)
    assert (unfit is None) == (weight is None or str(read) == str(weight)), unfit


@pytest.mark.parametrize("settings", ["a text", 7, []])
async def test_settings_that_are_none_weigh_one(database: Database, settings: Any) -> None:
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT data_manager.weight_of($1)", settings) == weight_of(settings) == 1


async def test_a_queue_says_what_its_tasks_weigh_that_do_not_say(store: EventStore, claim: Claim) -> None:
    await queues.change("etl", {"weight": 2})
    first, second, light = [*await queued(store, None, None), *await of_weights(store, 1)]
    assert await claim(3, 4) == [first]
    assert await claim(3, 4) == [second, light]


# --- what the log says ---

TOGETHER = """
import asyncio, os

async def main(event):
    while not os.path.exists(event["payload"]):
        await asyncio.sleep(0.05)
    return {}
"""


async def course(site: Site) -> Sequence[Mapping[str, Any]]:
    """What was claimed and what ended, in the order of the log, each with its weight."""
    async with site.store().database.connection() as connection:
        return list(await connection.fetch(COURSE))


def heaviest(events: Sequence[Mapping[str, Any]], by: str | None = None) -> int:
    """What ran at a time weighed at most, in all or on one host."""
    held, most = Counter[Any](), 0
    for event in events:
        held[event[by] if by else None] += event["weight"] * (1 if event["type"] == "dama/task:CLAIMED" else -1)
        most = max(most, *held.values())
    return most


@pytest.mark.parametrize("limits", [{}, {"global_concurrency": 7}])
async def test_what_runs_at_a_time_never_weighs_more_than_the_slots_of_its_host_and_of_all(
    hosts: tuple[Site, Site], limits: dict[str, int]
) -> None:
    one, other = hosts
    flag = one.folder / "begun"
    worker = one.worker(TOGETHER)
    chance = random.Random(3)
    weights = [2, 2, 1, 2, 2, 1] + [chance.randint(1, 5) for _ in range(60)]
    with one.here():
        await queues.change("common", {"shared": True, "run_in": "daemon", "concurrency": 5, **limits})
        requests = [tasks.request(worker, str(flag), queue="common", weight=weight) for weight in weights]
        ids = [made.etl_context_id for made in await tasks.queue_many(requests)]
    daemons = [Daemon(one), Daemon(other)]
    await asyncio.gather(*[daemon.start() for daemon in daemons])

    async def as_heavy_as_can_be() -> bool:
        return heaviest(await course(one)) == (7 if limits else 10)

    await until(as_heavy_as_can_be)
    flag.touch()
    await all_done(one, ids)
    assert [await daemon.stop() for daemon in daemons] == [0, 0]
    await one.verified()
    events = await course(one)
    assert len(events) == 2 * len(ids)
    assert heaviest(events, "host") == 5
    assert heaviest(events) <= limits.get("global_concurrency", 10)


async def test_a_heavy_task_has_its_turn_though_light_ones_never_cease(hosts: tuple[Site, Site]) -> None:
    site, _ = hosts
    light = """
        import os
        from damad import tasks

        async def main(event):
            if not os.path.exists(event["payload"]):
                await tasks.queue("light.py", event["payload"], queue="common")
            return {}
    """
    heavy = "import pathlib\n\nasync def main(event):\n    pathlib.Path(event['payload']).touch()\n    return {}\n"
    flag = str(site.folder / "heavy has run")
    site.worker(light, "light.py")
    with site.here():
        await queues.change("common", {"run_in": "daemon", "concurrency": 3})
    daemon = Daemon(site)
    await daemon.start()
    for id_ in [await site.queue("light.py", flag, queue="common") for _ in range(3)]:
        await site.ended(id_)  # and has queued another
    await site.ended(await site.queue(site.worker(heavy), flag, queue="common", weight=3))

    async def none_is_left() -> bool:
        with site.here():
            return not (await queues.get("common")).states

    await until(none_is_left)
    assert await daemon.stop() == 0
    assert heaviest(await course(site)) == 3


async def test_the_slots_of_a_host_hold_what_ran_before_its_daemon_was_started_again(hosts: tuple[Site, Site]) -> None:
    site, _ = hosts
    with site.here():
        await queues.change("common", {"concurrency": 3})
    with site.gate() as gate:
        daemon = Daemon(site)
        await daemon.start()
        heavy = await site.hold(gate, queue="common", weight=2)
        await site.reaches(heavy, "running")
        await daemon.stop()
        daemon = Daemon(site)
        await daemon.start()
        light = [await site.queue("hold.py", {"gate": str(gate.path)}, queue="common") for _ in range(2)]
        await site.reaches(light[0], "running")
        other = await site.queue(site.worker("async def main():\n    return {}\n"))
        await site.ended(other)  # claims went on meanwhile
        assert (await site.state(light[1])).state == "queued"
    for id_ in (heavy, *light):
        assert (await site.ended(id_)).state == "done"
    assert await daemon.stop() == 0


# --- what is held ---


@pytest.mark.parametrize(
    ("fields", "whole"),
    [
        ({}, "concurrency 4 here"),
        ({"concurrency": 8}, "concurrency 8 here"),
        ({"concurrency": 20, "global_concurrency": 8}, "global_concurrency 8"),
    ],
)
async def test_a_task_that_weighs_more_than_its_queue_has_slots_says_so(
    ctx: EtlContext, store: EventStore, fields: dict[str, int], whole: str
) -> None:
    await queues.change("etl", fields)
    id_ = await tasks.queue("ok.py", queue="etl", weight=9)
    (state,) = await queues.explained([await store.state(id_)])
    said = f"its weight is 9, and queue 'etl' has {whole}; raise it with `damad queues set etl`"
    assert state.held == said  # type: ignore[attr-defined]
    await queues.change("etl", {"concurrency": 9, "global_concurrency": 9})
    (state,) = await queues.explained([await store.state(id_)])
    assert "weight" not in state.held  # type: ignore[attr-defined]


async def test_a_daemon_runs_the_others_and_a_task_that_is_too_heavy_once_there_are_slots_enough(
    hosts: tuple[Site, Site],
) -> None:
    site, _ = hosts
    daemon = Daemon(site)
    await daemon.start(DAMAD_POLL_INTERVAL="1h")
    worker = site.worker("async def main():\n    return {}\n")
    heavy = await site.queue(worker, queue="common", weight=5)
    await site.ended(await site.queue(worker, queue="common", weight=4))
    assert (await site.state(heavy)).state == "queued"
    shown = await site.damad("show", str(heavy))
    assert "its weight is 5, and queue 'common' has concurrency 4 here" in " ".join(shown.out.split())
    with site.here():
        await queues.change("common", {"concurrency": 5})
    assert (await site.ended(heavy)).state == "done"
    assert await daemon.stop() == 0
