"""/metrics and /readyz: what those learn who watch over damad."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import http_support
import pytest
import pytest_asyncio
from http_support import SOON, House, new_database, refusal, running, streaming
from prometheus_client.parser import text_string_to_metric_families

from damad.eventstore import counting
from damad.eventstore.store import Append
from damad.http import health, metrics
from damad.model.event import Event

house, ready = http_support.house, http_support.ready

PAGE = Path(__file__).parent.parent / "docs" / "http.md"


@pytest_asyncio.fixture(loop_scope="session")
async def fresh(template: str, tmp_path: Path) -> AsyncIterator[House]:
    """A server whose log is empty, and which was scraped once."""
    async with running(tmp_path, await new_database(template)) as found:
        await scraped(found)
        yield found


async def scraped(house: House) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample: its name, its labels less the pg_env, its value."""
    async with house.get("/metrics") as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await response.text()
    return {
        (sample.name, tuple(value for name, value in sorted(sample.labels.items()) if name != "pg_env")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def appended(found: dict[tuple[str, tuple[str, ...]], float]) -> dict[str, float]:
    return {labels[0]: value for (name, labels), value in found.items() if name == "damad_events_appended_total"}


async def test_events_are_counted_by_type_whoever_appended_them(fresh: House) -> None:
    assert appended(await scraped(fresh)) == {}
    id_ = await fresh.new_context()
    await fresh.append(id_, ":A")
    assert appended(await scraped(fresh)) == {":INITIAL": 1, ":A": 1}
    async with fresh.database.connection() as connection:
        insert = "INSERT INTO data_manager.event_store (etl_context_id, type) VALUES ($1, ':A')"
        await connection.execute(insert, id_)
    assert appended(await scraped(fresh)) == {":INITIAL": 1, ":A": 2}


async def test_an_event_counts_once_however_late_it_commits_and_however_many_scrape(fresh: House) -> None:
    slow, fast = await fresh.new_context(), await fresh.new_context()
    async with fresh.store.transaction() as connection:
        await fresh.store.append([Append(etl_context_id=slow, event=Event(type=":LATE"))], on=connection)
        await fresh.append(fast, ":EARLY")
        assert appended(await scraped(fresh)) == {":INITIAL": 2, ":EARLY": 1}
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(scraped(fresh))
    assert appended(await scraped(fresh)) == {":INITIAL": 2, ":EARLY": 1, ":LATE": 1}


async def test_types_beyond_the_most_are_counted_together(fresh: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MOST_TYPES", 2)
    id_ = await fresh.new_context()
    await scraped(fresh)
    for type_ in (":A", ":B", ":C", ":A"):
        await fresh.append(id_, type_)
        found = appended(await scraped(fresh))
    assert found == {":INITIAL": 1, ":A": 2, "other": 2}


async def test_tasks_are_counted_by_queue_and_state_and_the_oldest_has_its_age(fresh: House) -> None:
    for queue in ("slow", "slow", "fast"):
        await fresh.new_task(queue=queue)
    await fresh.new_task(queue="slow", start_after="1h")
    running_ = await fresh.new_task(queue="slow")
    await fresh.start(running_)
    found = await scraped(fresh)
    tasks = {labels: value for (name, labels), value in found.items() if name == "damad_tasks"}
    assert tasks == {
        ("slow", "queued"): 2, ("fast", "queued"): 1, ("slow", "scheduled"): 1, ("slow", "running"): 1
    }  # fmt: skip
    assert found["damad_oldest_queued_seconds", ("slow",)] >= found["damad_oldest_queued_seconds", ("fast",)] > 0


async def test_attempts_are_counted_by_what_became_of_them_with_their_times(fresh: House) -> None:
    good, bad = await fresh.new_task(), await fresh.new_task()
    fence = await fresh.start(good)
    await fresh.append(good, ":FINAL", {}, fence)
    await fresh.fail(bad, await fresh.start(bad))
    await fresh.append(await fresh.new_context(), ":FINAL")  # of no task
    found = await scraped(fresh)
    attempts = {labels[0]: value for (name, labels), value in found.items() if name == "damad_attempts_total"}
    assert attempts == {"done": 1, "exception": 1}
    assert found["damad_task_wait_seconds_count", ()] == found["damad_attempt_run_seconds_count", ()] == 2
    assert found["damad_task_wait_seconds_sum", ()] > 0 and found["damad_attempt_run_seconds_sum", ()] > 0
    for name in ("damad_task_wait_seconds", "damad_attempt_run_seconds"):
        buckets = [found[f"{name}_bucket", (bound,)] for bound in [*map(str, counting.BOUNDS), "+Inf"]]
        assert buckets == sorted(buckets) and buckets[-1] == found[f"{name}_count", ()]


async def test_a_time_is_counted_at_the_first_bound_that_is_not_below_it(fresh: House) -> None:
    """The ends are put where they are wanted; a run that seems to take long takes a moment more."""
    for seconds in (2.0, 20.0, 100_000.0):
        id_ = await fresh.new_task()
        fence = await fresh.start(id_)
        begun = "UPDATE data_manager.dama_tasks SET started_at = now() - $2 * interval '1 s' WHERE etl_context_id = $1"
        async with fresh.database.connection() as connection:
            await connection.execute(begun, id_, seconds)
        await fresh.append(id_, ":FINAL", {}, fence)
    found = await scraped(fresh)
    counts = [
        found["damad_attempt_run_seconds_bucket", (bound,)] for bound in ("1.0", "15.0", "60.0", "86400.0", "+Inf")
    ]
    assert counts[0] == 0 and counts[2:] == [2, 2, 3]


async def test_kinds_and_queues_beyond_the_most_are_counted_together(
    fresh: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "MOST_KINDS", 0)
    monkeypatch.setattr(metrics, "MOST_QUEUES", 1)
    for queue in ("a", "b", "c"):
        await fresh.new_task(queue=queue)
    failed = await fresh.new_task(queue="a")
    await fresh.fail(failed, await fresh.start(failed))
    found = await scraped(fresh)
    assert found["damad_attempts_total", ("other",)] == 1
    tasks = {labels: value for (name, labels), value in found.items() if name == "damad_tasks"}
    assert tasks == {("a", "queued"): 1, ("(others)", "queued"): 2}
    assert found["damad_oldest_queued_seconds", ("(others)",)] > 0


async def test_readers_of_the_feed_are_counted_with_how_far_the_slowest_is_behind(fresh: House) -> None:
    id_ = await fresh.new_context()
    async with streaming(fresh, "/events") as stream:
        await stream.next()
        await fresh.waiting(1)
        found = await scraped(fresh)
        assert (found["damad_feed_readers", ()], found["damad_feed_lag_events", ()]) == (1, 0)
        await fresh.append(id_, ":A")
        await stream.next()
        assert (await scraped(fresh))["damad_feed_lag_events", ()] == 0
    await fresh.waiting(0)
    found = await scraped(fresh)
    assert (found["damad_feed_readers", ()], found["damad_feed_lag_events", ()]) == (0, 0)


async def test_the_daemon_tells_of_its_loop_its_pool_its_listener_and_its_process(house: House) -> None:
    found = await scraped(house)
    assert found["damad_pg_env_up", ()] == 1
    assert found["damad_loop_lag_seconds", ()] >= 0
    assert found["damad_pool_connections", ("idle",)] + found["damad_pool_connections", ("busy",)] >= 1
    assert found["damad_listener_hears", ()] in (0, 1)
    assert found["damad_process_resident_memory_bytes", ()] > 0


async def test_the_document_names_every_metric(house: House) -> None:
    page = PAGE.read_text().split("## Metrics")[1]
    named = set(re.findall(r"`(damad_[a-z_]+)`", page))
    async with house.get("/metrics") as response:
        families = text_string_to_metric_families(await response.text())
        shown = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert named == {name for name in shown if not name.startswith("damad_process_")}


async def test_metrics_need_the_token_and_readiness_needs_none(house: House) -> None:
    async with aiohttp.ClientSession() as stranger:
        async with stranger.get(house.url("/metrics")) as response:
            await refusal(response, 401, "unauthorized")
        async with stranger.get(house.url("/readyz")) as response:
            assert response.status == 200


async def test_who_asks_whether_damad_is_ready_hears_of_every_pg_env_the_listener_and_the_loop(house: House) -> None:
    with house.database.listener().subscribe("DAMAD_EVENT"):
        async with asyncio.timeout(SOON):
            while (await _ready(house))["pg_envs"]["main"]["listener"] != "hears":
                pass
    found = await _ready(house)
    assert found["status"] == "ready" and found["loop_lag"] >= 0
    assert found["pg_envs"] == {"main": {"answers": True, "listener": "hears"}}


async def _ready(house: House) -> Any:
    async with house.get("/readyz") as response:
        assert response.status == 200
        return await response.json()


async def test_a_loop_that_is_late_is_not_ready(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LAGGING", -1.0)
    async with house.get("/readyz") as response:
        document = await refusal(response, 503, "not-ready")
    assert "the loop is" in document["detail"] and document["pg_envs"]["main"]["answers"]
    async with house.get("/healthz") as response:
        assert response.status == 200
