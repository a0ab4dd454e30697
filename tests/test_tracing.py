"""A trace goes from a request into the log, from there to the worker, and on to what the worker queues."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import http_support
import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, daemon_on, site_of
from http_support import House, refusal

house = http_support.house

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
HEADER = {"traceparent": PARENT}


async def recorded(house: House, path: str, body: Any, headers: Any = None, *, status: int = 201) -> Any:
    async with house.post(path, body, headers=headers) as response:
        assert response.status == status, await response.text()
        return await response.json()


async def meta_of_task(house: House, id_: int) -> Any:
    return (await house.store.read(id_))[0].meta


# --- from the request into the log ---


async def test_the_trace_of_a_request_stays_in_the_meta_of_what_it_appends(house: House) -> None:
    id_ = await house.new_context()
    path = f"/contexts/{id_}/events"
    assert (await recorded(house, path, {"type": ":A"}, HEADER))["meta"] == {"traceparent": PARENT}
    assert (await recorded(house, path, {"type": ":A", "meta": {"a": 1}}, HEADER))["meta"]["a"] == 1
    several = await recorded(house, path, [{"type": ":B"}, {"type": ":C", "meta": {"traceparent": OTHER}}], HEADER)
    assert [event["meta"]["traceparent"] for event in several] == [PARENT, OTHER]
    assert (await recorded(house, path, {"type": ":A"}))["meta"] is None


async def test_the_trace_of_a_request_stays_in_the_meta_of_the_task_that_it_queues(house: House) -> None:
    asked = [
        {"worker": "hello.py", "meta": {"a": 1}},
        {"worker": "hello.py", "initial_event": {"type": ":INITIAL", "meta": {"b": 2}}},
        {"worker": "hello.py", "initial_event": {"type": ":INITIAL", "meta": {"traceparent": OTHER}}},
    ]
    queued = await recorded(house, "/tasks", asked, HEADER)
    metas = [await meta_of_task(house, one["etl_context_id"]) for one in queued]
    assert [meta["traceparent"] for meta in metas] == [PARENT, PARENT, OTHER]
    assert (metas[0]["a"], metas[1]["b"]) == (1, 2)
    for word in ("cancel", "retry"):
        async with house.post(f"/contexts/{queued[0]['etl_context_id']}/{word}", headers=HEADER) as response:
            assert response.status == 202
    types = ["dama/task:CANCEL_REQUESTED", "dama/task:REQUEUED"]
    asked_again = await house.store.read(queued[0]["etl_context_id"], types=types)
    assert [event.meta for event in asked_again] == [{"traceparent": PARENT}] * 2


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", PARENT.upper())],
        [("traceparent", PARENT + "-00")],
        [("traceparent", "00-" + "0" * 32 + "-00f067aa0ba902b7-01")],
        [("traceparent", PARENT), ("traceparent", PARENT)],
        [("traceparent", "")],
    ],
)
async def test_what_is_no_traceparent_is_ignored(house: House, headers: list[tuple[str, str]]) -> None:
    id_ = await house.new_context()
    assert (await recorded(house, f"/contexts/{id_}/events", {"type": ":A"}, headers))["meta"] is None


@pytest.mark.parametrize(("first", "second"), [(PARENT, OTHER), (None, PARENT), (PARENT, None)])
@pytest.mark.parametrize("meta", [{}, {"meta": {"a": 1}}])
async def test_what_is_sent_again_in_another_trace_is_the_same(
    house: House, first: str | None, second: str | None, meta: dict[str, Any]
) -> None:
    def headers(traceparent: str | None) -> dict[str, str]:
        return {} if traceparent is None else {"traceparent": traceparent}

    id_ = await house.new_context()
    path, event = f"/contexts/{id_}/events", {"type": ":A", "event_uuid": str(uuid4()), **meta}
    recorded_first = await recorded(house, path, event, headers(first))
    assert await recorded(house, path, event, headers(second), status=200) == recorded_first
    async with house.post(path, event | {"meta": {"a": 2}}, headers=headers(first)) as response:
        await refusal(response, 409, "event-uuid-conflict")
    task = {"worker": "hello.py", "idempotency_key": str(uuid4()), **meta}
    queued = await recorded(house, "/tasks", task, headers(first))
    again = await recorded(house, "/tasks", task, headers(second), status=200)
    assert again["etl_context_id"] == queued["etl_context_id"]
    async with house.post("/tasks", task | {"payload": 1}, headers=headers(first)) as response:
        await refusal(response, 409, "idempotency-conflict")


# --- from the log to the worker, and on ---

ASKS = """
import os
from damad import context, tasks

async def main():
    child = await tasks.subtask("child", worker="child.py")
    return {"environment": os.environ.get("TRACEPARENT"), "context": context.current().traceparent,
            "child": child.etl_context_id}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def daemon(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    """A daemon that was itself started within a trace."""
    folder = tmp_path_factory.mktemp("traced")
    async with site_of(folder, template, TRACEPARENT=OTHER) as site, daemon_on(site) as daemon:
        site.worker("def main():\n    return {}\n", "child.py")
        yield daemon


@pytest.fixture
def site(daemon: Daemon) -> Site:
    return daemon.site


@pytest.mark.parametrize("run_in", ["process", "daemon"])
async def test_a_worker_is_told_its_trace_and_hands_it_on_to_its_subtasks(site: Site, run_in: str) -> None:
    outcome = await site.run(ASKS, meta={"traceparent": PARENT}, run_in=run_in)
    result = outcome.result
    assert result["context"] == PARENT
    if run_in == "process":
        assert result["environment"] == PARENT
    assert (await site.event(result["child"], ":INITIAL")).meta["traceparent"] == PARENT  # type: ignore[index]
    for id_ in (outcome.id, result["child"]):
        assert (await site.event(id_, "dama/task:STARTED")).payload["traceparent"] == PARENT


@pytest.mark.parametrize("meta", [None, {"traceparent": "nonsense"}, {"traceparent": [PARENT]}])
async def test_a_task_of_no_trace_has_none_whatever_its_daemon_was_started_in(site: Site, meta: Any) -> None:
    outcome = await site.run(ASKS, meta=meta)
    assert (outcome.result["environment"], outcome.result["context"]) == (None, None)
    assert "traceparent" not in (await site.event(outcome.id, "dama/task:STARTED")).payload
    assert "traceparent" not in (await site.event(outcome.result["child"], ":INITIAL")).meta  # type: ignore[operator]


async def test_a_command_is_within_the_trace_of_its_environment(site: Site) -> None:
    queued = await site.damad("queue", "child.py", TRACEPARENT=PARENT)
    assert queued.code == 0, queued.err
    assert (await site.event(int(queued.out), ":INITIAL")).meta["traceparent"] == PARENT  # type: ignore[index]
    queued = await site.damad("queue", "child.py", TRACEPARENT="nonsense")
    assert "traceparent" not in (await site.event(int(queued.out), ":INITIAL")).meta  # type: ignore[operator]
