"""/contexts: made, read, with their trees, and waited for."""

import asyncio
from datetime import datetime
from typing import Any

import http_support
import pytest
from http_support import SOON, House, refusal
from yarl import URL

house = http_support.house

CONTEXT = {
    "etl_context_id", "parent_context_id", "source_id", "etl_status", "state", "version", "initial_event_id",
    "latest_event_id", "created_at", "updated_at",
}  # fmt: skip
TASK = {
    "worker", "queue", "priority", "attempt", "fence", "run_at", "started_at", "finished_at", "host_id", "pid",
    "progress", "error", "schedule", "settings", "held",
}  # fmt: skip
NO_ID = ["0", "-1", "x", "1.5", "1e3", "01", "+1", "%00", "9223372036854775808", "1" * 400, "%EF%BC%91", "null"]


async def test_a_context_is_made_without_events(house: House) -> None:
    async with house.post("/contexts", {}) as response:
        assert response.status == 201
        id_ = (await response.json())["etl_context_id"]
        assert response.headers["Location"] == f"/v1/main/contexts/{id_}"
    async with house.get(f"/contexts/{id_}") as response:
        state = await response.json()
    assert (state["state"], state["version"], state["initial_event_id"]) == ("open", 0, None)


async def test_a_context_has_the_parent_it_was_made_with(house: House) -> None:
    parent = await house.new_context()
    async with house.post("/contexts", {"parent_context_id": parent, "source_id": None}) as response:
        id_ = (await response.json())["etl_context_id"]
    assert (await house.store.state(id_)).parent_context_id == parent


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"parent_context_id": 2**62}, "/parent_context_id"),
        ({"source_id": 2**62}, "/source_id"),
        ({"parent_context_id": "1"}, "/parent_context_id"),
        ({"parent_context_id": -1}, "/parent_context_id"),
        ({"parent": 1}, "/parent"),
        ([], None),
        (1, None),
    ],
)
async def test_a_context_that_does_not_fit_is_refused(house: House, body: Any, pointer: str | None) -> None:
    async with house.ask("POST", "/contexts", json=body) as response:
        await refusal(response, 422, "invalid-input", pointer)


async def test_the_state_of_a_context_has_the_fields_of_the_contract_and_no_others(house: House) -> None:
    async with house.get(f"/contexts/{await house.new_context()}") as response:
        assert set(await response.json()) == CONTEXT


async def test_the_state_of_a_task_has_the_fields_of_a_task_beside_them(house: House) -> None:
    async with house.get(f"/contexts/{await house.new_task()}") as response:
        state = await response.json()
    assert set(state) == CONTEXT | TASK


async def test_times_are_rfc_3339_in_utc(house: House) -> None:
    async with house.get(f"/contexts/{await house.new_task()}") as response:
        state = await response.json()
    assert state["created_at"].endswith("Z")
    assert datetime.fromisoformat(state["run_at"]).tzinfo is not None


@pytest.mark.parametrize("id_", [*NO_ID, "4611686018427387904"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/contexts/{}"),
        ("GET", "/contexts/{}/tree"),
        ("GET", "/contexts/{}/events"),
        ("GET", "/contexts/{}/events?tree=1"),
        ("POST", "/contexts/{}/events"),
        ("GET", "/contexts/{}/final?timeout=0"),
        ("GET", "/contexts/{}/final"),
        ("POST", "/contexts/{}/cancel"),
        ("POST", "/contexts/{}/retry"),
        ("GET", "/contexts/{}/logs"),
        ("GET", "/contexts/{}/logs?follow=1"),
    ],
)
async def test_a_context_that_is_not_there_is_404_whatever_its_id_looks_like(
    house: House, method: str, path: str, id_: str
) -> None:
    body = {"json": {"type": ":LOADED"}} if path == "/contexts/{}/events" and method == "POST" else {}
    async with house.client.request(method, URL(house.url(path.format(id_)), encoded=True), **body) as response:
        await refusal(response, 404, "not-found")


async def test_the_tree_of_a_context_holds_ancestors_self_and_descendants(house: House) -> None:
    top = await house.new_context()
    middle = await house.new_context(top)
    sibling = await house.new_context(top)
    leaves = [await house.new_context(middle), await house.new_task(parent_context_id=middle)]
    async with house.get(f"/contexts/{middle}/tree") as response:
        tree = await response.json()
    assert [state["etl_context_id"] for state in tree] == [top, middle, *leaves]
    assert sibling not in [state["etl_context_id"] for state in tree]
    assert (set(tree[0]), set(tree[-1])) == (CONTEXT, CONTEXT | TASK)


async def test_final_is_at_once_there_for_a_context_that_ended(house: House) -> None:
    id_ = await house.new_context()
    event = await house.append(id_, ":FINAL", {"rows": 3})
    for query in ("", "?timeout=0"):
        async with house.get(f"/contexts/{id_}/final{query}") as response:
            found = await response.json()
        assert (response.status, found["state"], found["event"]["event_id"]) == (200, "done", event.event_id)
        assert found["event"]["payload"] == {"rows": 3}


async def test_final_waits_for_the_end(house: House) -> None:
    id_ = await house.new_context()
    async with asyncio.timeout(SOON), asyncio.TaskGroup() as group:
        answer = group.create_task(_final(house, f"/contexts/{id_}/final?timeout=60"))
        await house.append(id_, ":LOADED")
        await house.append(id_, ":FINAL")
    assert answer.result()[0:2] == (200, "done")


async def test_final_tells_a_failure_and_a_cancellation_from_a_result(house: House) -> None:
    failed, cancelled = await house.new_task(), await house.new_task()
    await house.fail(failed, await house.start(failed))
    async with house.post(f"/contexts/{cancelled}/cancel"):
        pass
    assert await _final(house, f"/contexts/{failed}/final") == (200, "failed", "dama/task:FAILED")
    assert await _final(house, f"/contexts/{cancelled}/final") == (200, "cancelled", "dama/task:CANCELLED")


@pytest.mark.parametrize("timeout", ["0", "0.01", "0.0", "0s", "10ms", "0.01s"])
async def test_final_is_202_with_the_state_while_the_context_is_open(house: House, timeout: str) -> None:
    id_ = await house.new_task()
    async with house.get(f"/contexts/{id_}/final?timeout={timeout}") as response:
        assert (response.status, await response.json()) == (202, {"state": "queued"})


@pytest.mark.parametrize("timeout", ["300", "300s", "5m", "250ms", "0.05h"])
async def test_final_takes_any_duration_up_to_300_seconds(house: House, timeout: str) -> None:
    id_ = await house.new_context()
    await house.append(id_, ":FINAL")
    assert await _final(house, f"/contexts/{id_}/final?timeout={timeout}") == (200, "done", ":FINAL")


@pytest.mark.parametrize(
    "timeout", ["301", "-1", "-1s", "6m", "1d", "nan", "inf", "1e2", "", "1_0", "30 apples", "300.01", "0x1"]
)
async def test_a_timeout_that_is_no_duration_up_to_300_seconds_is_refused(house: House, timeout: str) -> None:
    async with house.get(f"/contexts/{await house.new_context()}/final", params={"timeout": timeout}) as response:
        document = await refusal(response, 422, "invalid-input")
    assert document["parameter"] == "timeout"
    assert "a duration like 250ms, 30s or 5m, from 0 to 300 s" in document["detail"]


@pytest.mark.parametrize("path", ["", "/tree", "/final", "/events", "/logs"])
async def test_a_parameter_that_nobody_knows_is_refused(house: House, path: str) -> None:
    async with house.get(f"/contexts/{await house.new_context()}{path}?colour=red") as response:
        assert (await refusal(response, 422, "invalid-input"))["parameter"] == "colour"


async def _final(house: House, path: str) -> tuple[int, str, str]:
    async with house.get(path) as response:
        found = await response.json()
        return response.status, found["state"], found["event"]["type"]
