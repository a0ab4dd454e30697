"""A running daemon: what it wakes for, in which order it runs tasks and how many at a time, how it retries."""

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from daemon_support import PG_ENV, Daemon, Site, daemon_on, site_of

from damad import processes, statefolder
from damad.eventstore.schedule import Schedule
from damad.model.event import RecordedEvent
from damad.processes import Process

TASKS_SQL = """
    WITH ctx AS (INSERT INTO data_manager.etl_contexts DEFAULT VALUES RETURNING etl_context_id)
    INSERT INTO data_manager.event_store (etl_context_id, type, payload, meta)
      SELECT etl_context_id, 'sql:INITIAL', '{"n": 3}', jsonb_build_object('__dama_task_manager__', $1::jsonb) FROM ctx
      RETURNING etl_context_id
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def daemon(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    """A daemon that polls so seldom that whatever happens soon was heard of."""
    settings = {
        "DAMAD_POLL_INTERVAL": "10m",
        "DAMAD_GRACE": "500ms",
        "DAMAD_QUEUE_ONE_CONCURRENCY": "1",
        "DAMAD_QUEUE_TWO_CONCURRENCY": "2",
        "DAMAD_QUEUE_SHUT_CONCURRENCY": "0",
        "DAMAD_QUEUE_DEFAULT_RETRY_DELAY": "20ms",
    }
    async with site_of(tmp_path_factory.mktemp("daemon"), template, **settings) as site, daemon_on(site) as daemon:
        yield daemon
        await site.verified()


@pytest.fixture
def site(daemon: Daemon) -> Site:
    return daemon.site


async def by_sql(site: Site, settings: dict[str, Any]) -> int:
    async with site.databases[PG_ENV].connection() as connection:
        return await connection.fetchval(TASKS_SQL, settings)


async def starts(site: Site, *ids: int) -> list[int]:
    """The tasks in the order in which they started."""
    events = [event for id_ in ids for event in await site.events(id_, "dama/task:STARTED")]
    return [event.etl_context_id for event in sorted(events, key=lambda event: event.event_id)]


def at_once(events: list[RecordedEvent]) -> int:
    """The most tasks that were claimed or running at a time, as the log has it."""
    held, most = set[int](), 0
    for event in sorted(events, key=lambda event: event.event_id):
        if event.type == "dama/task:CLAIMED":
            held.add(event.etl_context_id)
        elif event.type.endswith((":FINAL", ":RETRY", ":FAILED", ":RELEASED", ":CANCELLED")):
            held.discard(event.etl_context_id)
        most = max(most, len(held))
    return most


# --- waking ---


async def test_a_queued_task_runs_without_waiting_for_a_poll(site: Site) -> None:
    assert (await site.run("def main():\n    return {}\n")).state == "done"


async def test_a_task_that_is_queued_while_the_listener_is_cut_runs_too(site: Site) -> None:
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'damad' AND pid <> $1"
    async with site.databases[PG_ENV].connection() as connection:
        await connection.fetch(cut + " AND datname = current_database()", connection.get_server_pid())
    await site.databases[PG_ENV].close()
    assert (await site.run("def main():\n    return {}\n")).state == "done"


@pytest.mark.parametrize("name", ["worker", "worker_path"])
async def test_a_task_that_was_queued_with_plain_sql_runs(site: Site, name: str) -> None:
    worker = site.worker("def main(event):\n    return {'n': event['payload']['n'], 'type': event['type'][:3]}\n")
    id_ = await by_sql(site, {name: worker})
    await site.ended(id_)
    assert (await site.events(id_, ":FINAL"))[0].payload == {"n": 3, "type": "sql"}


async def test_a_task_of_another_host_is_left_alone(site: Site) -> None:
    worker = site.worker("def main():\n    return {}\n")
    elsewhere = await by_sql(site, {"worker": worker, "dama_host_id": str(uuid4())})
    await site.ended(await site.queue(worker))
    assert await site.types(elsewhere) == ["sql:INITIAL"]


# --- order and slots ---


@pytest.mark.parametrize(("queue", "limit"), [("one", 1), ("two", 2), ("default", 4)])
async def test_the_concurrency_of_a_queue_is_used_and_never_exceeded(site: Site, queue: str, limit: int) -> None:
    worker = site.worker("def main():\n    return {}\n")
    with site.gate() as gate:
        held = [await site.queue("hold.py", {"gate": str(gate.path)}, queue=queue) for _ in range(limit)]
        ids = held + [await site.queue(worker, queue=queue) for _ in range(3 * limit)]
        for id_ in held:
            await site.event(id_, ":HERE")
    for id_ in ids:
        assert (await site.ended(id_)).state == "done"
    assert at_once([event for id_ in ids for event in await site.events(id_)]) == limit


async def test_a_queue_without_slots_runs_nothing_and_holds_up_no_other(site: Site) -> None:
    worker = site.worker("def main():\n    return {}\n")
    waiting = await site.queue(worker, queue="shut", priority=100)
    await site.ended(await site.queue(worker))
    assert (await site.state(waiting)).state == "queued"
    assert (await site.cancel(waiting)).state == "cancelled"


async def test_higher_priorities_run_first_and_equal_ones_oldest_first(site: Site) -> None:
    worker = site.worker("def main():\n    return {}\n")
    with site.gate() as gate:
        first = await site.hold(gate, queue="one")
        low = await site.queue(worker, queue="one", priority=-5)
        old = await site.queue(worker, queue="one")
        new = await site.queue(worker, queue="one")
        high = await site.queue(worker, queue="one", priority=5)
    for id_ in (low, old, new, high):
        await site.ended(id_)
    assert await starts(site, first, low, old, new, high) == [first, high, old, new, low]


@pytest.mark.parametrize("form", ["duration", "time"])
async def test_a_task_starts_after_its_time_and_by_itself(site: Site, form: str) -> None:
    time = (datetime.now(UTC) + timedelta(seconds=0.4)).isoformat()
    outcome = await site.run("def main():\n    return {}\n", start_after="400ms" if form == "duration" else time)
    initial, claimed = outcome.events[0], outcome.events[1]
    earliest = datetime.fromisoformat(time) if form == "time" else initial.created_timestamp + timedelta(seconds=0.4)
    assert claimed.type == "dama/task:CLAIMED"
    assert claimed.created_timestamp >= earliest


async def test_parents_that_wait_hold_no_slot_so_a_full_queue_cannot_deadlock(site: Site) -> None:
    name = site.worker(
        """
        from damad import tasks

        async def main(event):
            depth = event["payload"]["depth"]
            if depth == 0:
                return {"leaves": 1}
            children = [
                await tasks.subtask(f"child {n}", worker=event["payload"]["self"],
                                    payload={**event["payload"], "depth": depth - 1})
                for n in range(2)
            ]
            return {"leaves": sum(child["leaves"] for child in await tasks.gather(*children))}
        """
    )
    id_ = await site.queue(name, {"depth": 2, "self": name}, queue="one")
    assert (await site.ended(id_)).state == "done"
    assert (await site.events(id_, ":FINAL"))[0].payload == {"leaves": 4}
    tree = await site.store().tree(id_)
    assert len(tree) == 7
    assert {state.queue for state in tree} == {"one"}


# --- retries ---


async def test_a_failure_is_retried_no_sooner_than_it_was_said(site: Site) -> None:
    source = """
        from damad import context

        def main():
            if context.current().attempt < 3:
                raise ValueError
            return {"attempt": context.current().attempt}
    """
    outcome = await site.run(source, retry_delay="50ms")
    assert outcome.result == {"attempt": 3}
    starts, retries, claims = [
        [event for event in outcome.events if event.type == f"dama/task:{kind}"]
        for kind in ("STARTED", "RETRY", "CLAIMED")
    ]
    for start, retry, claim in zip(starts, retries, claims[1:], strict=False):
        # Its delay counts from the failure, which the log may hear of late.
        assert start.created_timestamp < datetime.fromisoformat(retry.payload["run_at"]) <= claim.created_timestamp
    assert [event.type.removeprefix("dama/task:") for event in outcome.events] == [
        ":INITIAL", *["CLAIMED", "STARTED", "ERROR", "RETRY"] * 2, "CLAIMED", "STARTED", ":FINAL",
    ]  # fmt: skip


@pytest.mark.parametrize("failure", ["raise ValueError", "os._exit(7)"])
async def test_after_retry_limit_more_attempts_a_task_has_failed(site: Site, failure: str) -> None:
    outcome = await site.run(f"import os\n\ndef main():\n    {failure}\n", retry_limit=2)
    assert outcome.error["attempt"] == outcome.task.attempt == 3


async def test_errors_and_crashes_are_counted_apart(site: Site) -> None:
    source = """
        import os
        from damad import context

        def main():
            if context.current().attempt % 2:
                raise ValueError
            os._exit(7)
    """
    outcome = await site.run(source, retry_limit=1)
    kinds = [event.payload["kind"] for event in outcome.events if event.type == "dama/task:ERROR"]
    assert (outcome.state, kinds) == ("failed", ["exception", "exit", "exception"])


async def test_requeued_starts_both_counts_again_and_goes_on_counting_attempts(site: Site) -> None:
    outcome = await site.run("def main():\n    raise ValueError\n", retry_limit=1)
    assert outcome.error["attempt"] == 2
    await site.retry(outcome.id)
    await site.event(outcome.id, "dama/task:FAILED", nth=2)
    assert (await site.state(outcome.id)).attempt == 4


async def test_what_was_dispatched_before_a_retry_is_still_there(site: Site) -> None:
    source = """
        from damad import context, events, tasks

        async def main():
            steps = await tasks.step("once", lambda: context.current().attempt)
            await events.dispatch({"type": ":SEEN"})
            if context.current().attempt == 1:
                raise ValueError
            return {"step": steps, "seen": len([e for e in await events.read() if e["type"] == ":SEEN"])}
    """
    assert (await site.run(source)).result == {"step": 1, "seen": 2}


# --- claims that never start ---


async def test_a_claim_that_never_started_is_released_and_is_no_attempt(daemon: Daemon, site: Site) -> None:
    id_ = await whose_first_runs_cannot_begin(site, 1)
    assert (await site.ended(id_)).attempt == 1
    released, started = await site.events(id_, "dama/task:RELEASED", "dama/task:STARTED")
    assert (released.type, started.type) == ("dama/task:RELEASED", "dama/task:STARTED")
    assert "a runner could not be started" in daemon.log


async def test_what_cannot_be_started_is_tried_ever_less_often_though_other_tasks_run(
    daemon: Daemon, site: Site
) -> None:
    with site.gate() as gate:
        other = await site.hold(gate)
        id_ = await whose_first_runs_cannot_begin(site, 4)
        assert (await site.ended(id_)).attempt == 1
        claims, releases = [await site.events(id_, f"dama/task:{type_}") for type_ in ("CLAIMED", "RELEASED")]
        assert len(releases) == 4
        # The first pause is 0.1 s, each of the others twice the one before. (They begin after the claim, however late.)
        ends = [datetime.fromisoformat(release.payload["run_at"]) for release in releases]
        pauses = [end - claim.created_timestamp for claim, end in zip(claims, ends, strict=False)]
        assert pauses[-1] > timedelta(seconds=0.4), pauses
    await site.ended(other)


async def whose_first_runs_cannot_begin(site: Site, many: int) -> int:
    """A task whose first runs cannot be recorded."""
    id_ = await site.queue(site.worker("def main():\n    return {}\n"), start_after="1h")
    runs = site.state_dir / "runs" / PG_ENV
    runs.mkdir(parents=True, exist_ok=True)
    for fence in range(1, many + 1):
        (runs / f"{id_}.{fence}").write_text("in the way of a run")
    await site.cancel(id_)
    await site.retry(id_)
    return id_


async def test_the_claim_of_a_daemon_that_died_is_released_at_once(site: Site) -> None:
    host_id = statefolder.make_host_id(site.state_dir)
    dead = processes.as_holder(Process(os.getpid(), 1, processes.boot_id()), host_id)
    id_ = await site.queue(site.worker("def main():\n    return {}\n"), queue="shut")
    await Schedule(site.databases[PG_ENV], host_id).claim_one(id_, holder=dead, lease=3600.0)
    await wake(site)
    await site.event(id_, "dama/task:RELEASED")
    assert (await site.state(id_)).attempt == 0
    await site.cancel(id_)


async def test_the_claim_of_a_process_that_lives_is_left_alone_until_its_lease_is_over(site: Site) -> None:
    host_id = statefolder.make_host_id(site.state_dir)
    schedule = Schedule(site.databases[PG_ENV], host_id)
    me = processes.as_holder(processes.myself(), host_id)
    worker = site.worker("def main():\n    return {}\n")
    kept, lapsed = await site.queue(worker, queue="shut"), await site.queue(worker, queue="shut")
    await schedule.claim_one(kept, holder=me, lease=3600.0)
    await schedule.claim_one(lapsed, holder=me, lease=0.0)
    await wake(site)
    await site.event(lapsed, "dama/task:RELEASED")
    assert (await site.state(kept)).state == "claimed"
    await site.cancel(kept)
    await site.reaches(kept, "cancelled")
    await site.cancel(lapsed)


async def wake(site: Site) -> None:
    """Has the daemon look at everything once more."""
    await site.ended(await site.queue(site.worker("def main():\n    return {}\n")))
