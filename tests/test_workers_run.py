"""The example workers under a real daemon: whatever is killed, they end right."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from daemon_support import PG_ENV, Daemon, Site, daemon_on, site_of, until
from node_support import needs_node, node_on_the_path

from damad import processes
from damad.testing.trials import Trials

WORKERS = Path(__file__).parent.parent / "workers"
CAIRNS = {
    "agency": 1, "calendar": 4, "calendar_dates": 9, "routes": 22,
    "shapes": 22784, "stop_times": 37790, "stops": 416, "trips": 1339,
}  # fmt: skip

HOLD_IN_THE_MIDDLE = """
    CREATE FUNCTION hold_row() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END $$;
    CREATE FUNCTION hold_stop_times() RETURNS event_trigger LANGUAGE plpgsql AS $$
      BEGIN
        IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'cairns.stop_times') THEN
          CREATE SEQUENCE IF NOT EXISTS cairns.rows;
          CREATE TRIGGER hold BEFORE INSERT ON cairns.stop_times FOR EACH ROW
            WHEN (nextval('cairns.rows') = 20000) EXECUTE FUNCTION hold_row();
        END IF;
      END $$;
    CREATE EVENT TRIGGER hold_stop_times ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
      EXECUTE FUNCTION hold_stop_times();
"""
"""The 20,000th row of stop_times waits for an advisory lock."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def daemon(template: str, tmp_path_factory) -> AsyncIterator[Daemon]:
    settings = {"DAMAD_WORKER_ROOTS": str(WORKERS), "DAMAD_QUEUE_DEFAULT_RETRY_DELAY": "20ms"}
    async with site_of(tmp_path_factory.mktemp("examples"), template, **settings) as site, daemon_on(site) as daemon:
        yield daemon
        await site.verified()


async def result(site: Site, worker: str, payload: dict) -> dict:
    id_ = await site.queue(worker, payload)
    state = await site.ended(id_)
    assert state.state == "done", state.error
    return (await site.events(id_, ":FINAL"))[0].payload


def test_hello_greets_whom_the_payload_names(damad: Trials) -> None:
    trial = damad.run_worker(WORKERS / "hello.py", {"name": "world"})
    assert trial.result == {"greeting": "hello world"}
    trial.assert_events(":FINAL")


@needs_node
def test_the_stops_of_a_feed_become_geojson(damad: Trials) -> None:
    with node_on_the_path():
        trial = damad.run_worker(WORKERS / "gtfs_stops.mjs", {"path": "data/cairns_gtfs.zip"})
        refused = damad.run_worker(WORKERS / "gtfs_stops.mjs", {"path": "README.md"}, retry_limit=5)
    assert trial.payloads("gtfs:STOPS_READ") == [{"rows": CAIRNS["stops"]}]
    trial.assert_events("gtfs:STOPS_READ", ":FINAL")
    assert len(trial.result["features"]) == CAIRNS["stops"]
    assert trial.result["features"][0] == {
        "type": "Feature",
        "id": "750000",
        "geometry": {"type": "Point", "coordinates": [145.668217, -16.74359]},
        "properties": {"name": "Cedar Rd (Palm Cove) - Hail and Ride Location"},
    }
    assert (refused.state.state, refused.error["message"]) == ("failed", "NoRetry: the feed is no zip file")


async def test_fizzbuzz_with_40_subtasks_and_chaos_ends_right(daemon: Daemon) -> None:
    site = daemon.site
    id_ = await site.queue("fizzbuzz.py", {"n": 40, "chaos": 0.2, "seed": 7})
    assert (await site.ended(id_)).state == "done"
    assert (await site.events(id_, ":FINAL"))[0].payload == {
        "n": 40, "fizz": 11, "buzz": 6, "fizzbuzz": 2, "number": 21, "failed": [],
    }  # fmt: skip
    children = [state for state in await site.store().tree(id_) if state.parent_context_id == id_]
    assert len(children) == 40
    kinds = {
        error.payload["kind"]
        for child in children
        for error in await site.events(child.etl_context_id, "dama/task:ERROR")
    }
    assert kinds == {"exception", "signal"}
    assert max(child.attempt for child in children) > 1


async def test_a_gtfs_load_that_is_killed_in_the_middle_of_stop_times_ends_with_the_exact_counts(
    daemon: Daemon,
) -> None:
    site = daemon.site
    async with site.databases[PG_ENV].connection() as holder:
        await holder.execute(HOLD_IN_THE_MIDDLE)
        await holder.execute("SELECT pg_advisory_lock(7)")
        id_ = await site.queue("gtfs_load.py", {"path": "data/cairns_gtfs.zip", "schema": "cairns"})
        waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted)"
        await until(lambda: holder.fetchval(waiting), lambda: daemon.log)
        await holder.execute("DROP EVENT TRIGGER hold_stop_times")
        worker = await site.process(id_)
        processes.send(worker, signal.SIGKILL)
        await site.event(id_, "dama/task:ERROR")
        await holder.execute("SELECT pg_advisory_unlock(7)")
        state = await site.ended(id_)
        assert (state.state, state.attempt) == ("done", 2)
        for table, rows in CAIRNS.items():
            assert await holder.fetchval(f'SELECT count(*) FROM cairns."{table}"') == rows, table
    (final,) = await site.events(id_, ":FINAL")
    assert final.payload == {
        "tables": CAIRNS,
        "bbox": [145.662903, -17.104062, 145.78647, -16.743472],
        "service": ["2014-05-26", "2014-12-28"],
    }
    loaded = [event.payload["table"] for event in await site.events(id_, "gtfs:FILE_LOADED")]
    assert sorted(loaded) == sorted(CAIRNS)
    (error,) = await site.events(id_, "dama/task:ERROR")
    assert (error.payload["kind"], error.payload["signal"]) == ("signal", 9)
    summary = await result(site, "gtfs_summary.py", {"schema": "cairns"})
    assert summary["tables"].items() >= CAIRNS.items()
    assert len(summary["busiest_stops"]) == 5


def test_a_feed_that_is_none_fails_at_once(damad: Trials) -> None:
    trial = damad.run_worker(WORKERS / "gtfs_load.py", {"path": "README.md", "schema": "cairns"}, retry_limit=5)
    assert (trial.state.state, trial.state.attempt, trial.error["type"]) == ("failed", 1, "NoRetry")
