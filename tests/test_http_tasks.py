"""POST and GET /tasks, /cancel and /retry."""

from pathlib import Path
from typing import Any

import http_support
import pytest
from http_support import House, refusal

from damad.eventstore.serving import Host, serving
from damad.http import cursors

house = http_support.house


async def test_a_task_is_queued_and_says_where_it_is(house: House) -> None:
    async with house.post("/tasks", {"worker": "hello.py", "payload": {"name": "world"}, "priority": 3}) as response:
        assert response.status == 201
        made = await response.json()
        assert response.headers["Location"] == f"/v1/main/contexts/{made['etl_context_id']}"
    async with house.get(response.headers["Location"]) as response:
        state = await response.json()
    assert (state["state"], state["worker"], state["priority"], state["queue"]) == ("queued", "hello.py", 3, "default")
    (initial,) = await house.store.read(made["etl_context_id"])
    assert (initial.type, initial.payload) == (":INITIAL", {"name": "world"})


async def test_an_initial_event_stands_in_place_of_a_payload(house: House) -> None:
    id_ = await house.new_task(initial_event={"type": "gtfs:INITIAL", "payload": [1], "meta": {"by": "me"}})
    (initial,) = await house.store.read(id_)
    assert (initial.type, initial.payload, initial.meta["by"]) == ("gtfs:INITIAL", [1], "me")


async def test_the_settings_of_its_queue_are_a_task_s_defaults(house: House) -> None:
    async with house.get(f"/contexts/{await house.new_task(queue='fast')}") as response:
        assert (await response.json())["settings"]["retry_limit"] == 7


async def test_an_array_queues_all_of_them_and_is_answered_with_an_array(house: House) -> None:
    async with house.post("/tasks", [{"worker": "hello.py", "payload": n} for n in range(3)]) as response:
        assert (response.status, "Location" in response.headers) == (201, False)
        ids = [made["etl_context_id"] for made in await response.json()]
    assert [(await house.store.read(id_))[0].payload for id_ in ids] == [0, 1, 2]


async def test_an_array_with_one_bad_task_queues_none(house: House) -> None:
    before = await house.event_count()
    async with house.post("/tasks", [{"worker": "hello.py"}, {"worker": "hello.py", "priority": "high"}]) as response:
        await refusal(response, 422, "invalid-input", "/1/priority")
    assert await house.event_count() == before


async def test_an_idempotency_key_queues_one_task(house: House) -> None:
    task = {"worker": "hello.py", "payload": 1, "idempotency_key": "once"}
    async with house.post("/tasks", task) as response:
        first = await response.json()
        assert (response.status, first["created"]) == (201, True)
    async with house.post("/tasks", task) as response:
        again = await response.json()
        shown = {"etl_context_id": first["etl_context_id"], "created": False, "suppressed": "idempotency_key"}
        assert (response.status, again) == (200, shown)
    async with house.post("/tasks", [task, {"worker": "hello.py"}]) as response:
        assert (response.status, (await response.json())[0]) == (201, again)
    async with house.post("/tasks", [task]) as response:
        assert (response.status, await response.json()) == (200, [again])


async def test_a_singleton_key_is_answered_with_the_open_task_and_says_so(house: House) -> None:
    task = {"worker": "hello.py", "singleton_key": "one", "debounce": "1h"}
    async with house.post("/tasks", task) as response:
        first = await response.json()
        assert (response.status, first["created"], "suppressed" in first) == (201, True, False)
    for payload, settings, why in ((1, {}, "debounce"), (2, {"debounce": None}, "singleton_key")):
        async with house.post("/tasks", {**task, **settings, "payload": payload}) as response:
            shown = {"etl_context_id": first["etl_context_id"], "created": False, "suppressed": why}
            assert (response.status, await response.json()) == (200, shown)
            assert response.headers["Location"].endswith(f"/contexts/{first['etl_context_id']}")


async def test_a_throttled_task_is_answered_with_the_last_one_and_says_so(house: House) -> None:
    task = {"worker": "hello.py", "singleton_key": "seldom", "throttle": "1h"}
    async with house.post("/tasks", task) as response:
        first = (await response.json())["etl_context_id"]
    async with house.post(f"/contexts/{first}/events", {"type": ":FINAL"}) as response:
        assert response.status == 201
    async with house.post("/tasks", {**task, "payload": 1}) as response:
        shown = {"etl_context_id": first, "created": False, "suppressed": "throttle"}
        assert (response.status, await response.json()) == (200, shown)


async def test_an_idempotency_key_with_another_body_is_refused(house: House) -> None:
    await house.new_task(idempotency_key="taken", payload=1)
    async with house.post("/tasks", {"worker": "hello.py", "idempotency_key": "taken", "payload": 2}) as response:
        assert (await refusal(response, 409, "idempotency-conflict"))["idempotency_key"] == "taken"


@pytest.mark.parametrize(
    ("task", "pointer"),
    [
        ({}, "/worker"),
        ({"worker": 5}, "/worker"),
        ({"worker": ""}, None),
        ({"worker": "hello.py", "shape": "round"}, "/shape"),
        ({"worker": "hello.py", "settings": {"queue": "fast"}}, "/settings"),
        ({"worker": "hello.py", "dama_host_id": "mine"}, "/dama_host_id"),
        ({"worker": "hello.py", "queue": "Nope"}, "/queue"),
        ({"worker": "hello.py", "queue": ["a"]}, "/queue"),
        ({"worker": "hello.py", "priority": 2**31}, "/priority"),
        ({"worker": "hello.py", "retry_limit": -1}, "/retry_limit"),
        ({"worker": "hello.py", "retry_delay": "soon"}, "/retry_delay"),
        ({"worker": "hello.py", "start_after": "2026-01-31T08:00:00"}, "/start_after"),
        ({"worker": "hello.py", "start_after": {}}, "/start_after"),
        ({"worker": "hello.py", "start_after": "0001-06-01T00:00:00Z"}, "/start_after"),
        ({"worker": "hello.py", "start_after": "9999-06-01T00:00:00Z"}, "/start_after"),
        ({"worker": "hello.py", "run_in": "cloud"}, "/run_in"),
        ({"worker": "hello.py", "idempotency_key": ""}, "/idempotency_key"),
        ({"worker": "hello.py", "debounce": "1h"}, "/debounce"),
        ({"worker": "hello.py", "throttle": "1h"}, "/throttle"),
        ({"worker": "hello.py", "meta": []}, "/meta"),
        ({"worker": "hello.py", "parent_context_id": 0}, "/parent_context_id"),
        ({"worker": "hello.py", "parent_context_id": "1"}, "/parent_context_id"),
        ({"worker": "hello.py", "parent_context_id": 1.0}, "/parent_context_id"),
        ({"worker": "hello.py", "parent_context_id": 2**62}, "/parent_context_id"),
        ({"worker": "hello.py", "source_id": 2**62}, "/source_id"),
        ({"worker": "hello.py", "payload": 1, "initial_event": {"type": ":INITIAL"}}, "/payload"),
        ({"worker": "hello.py", "initial_event": {"type": ":LOADED"}}, "/initial_event/type"),
        ({"worker": "hello.py", "initial_event": {"type": "dama/task:INITIAL"}}, "/initial_event/type"),
        ({"worker": "hello.py", "initial_event": {"type": ":INITIAL", "meta": {"__dama_task_manager__": {}}}}, None),
        ({"worker": "hello.py", "initial_event": []}, "/initial_event"),
        ([], None),
        ("hello.py", None),
        (5, None),
    ],
)
async def test_a_task_that_does_not_fit_is_refused_and_nothing_is_queued(
    house: House, task: Any, pointer: str | None
) -> None:
    before = await house.event_count()
    async with house.ask("POST", "/tasks", json=task) as response:
        document = await response.json(content_type="application/problem+json")
        assert (response.status, document["type"][:26]) == (422, "urn:damad:problem:invalid-"), document
        if pointer is not None:
            assert document["pointer"] == pointer, document
    assert await house.event_count() == before


async def test_the_unknown_parent_in_an_array_is_pointed_at(house: House) -> None:
    tasks = [{"worker": "hello.py"}, {"worker": "hello.py", "parent_context_id": 2**62}]
    async with house.post("/tasks", tasks) as response:
        await refusal(response, 422, "invalid-input", "/1/parent_context_id")


@pytest.mark.parametrize("worker", ["missing.py", "../outside.py", "/etc/passwd", "hello.txt", "folder.py", "open.py"])
async def test_a_worker_that_may_not_be_run_is_refused_at_once(house: House, worker: str) -> None:
    root = house.settings.worker_roots[0]
    (root / "hello.txt").write_text("no worker")
    (root / "folder.py").mkdir(exist_ok=True)
    (root / "open.py").write_text("def main(): ...\n")
    (root / "open.py").chmod(0o666)
    (root.parent / "outside.py").write_text("def main(): ...\n")
    async with house.post("/tasks", {"worker": worker}) as response:
        await refusal(response, 422, "invalid-worker", "/worker")


async def test_tasks_are_listed_newest_first_page_by_page(house: House) -> None:
    parent = await house.new_context()
    ids = [await house.new_task(parent_context_id=parent) for _ in range(5)]
    seen, cursor = [], None
    while True:
        query = f"/tasks?parent={parent}&limit=2" + (f"&cursor={cursor}" if cursor else "")
        async with house.get(query) as response:
            page = await response.json()
        assert len(page["items"]) <= 2
        seen += [state["etl_context_id"] for state in page["items"]]
        if (cursor := page["next"]) is None:
            break
    assert seen == ids[::-1]


async def test_tasks_are_listed_by_state_and_queue(house: House) -> None:
    queued = await house.new_task(queue="listed")
    running = await house.new_task(queue="listed")
    await house.start(running)
    later = await house.new_task(queue="listed", start_after="1h")

    async def listed(query: str) -> list[int]:
        async with house.get(f"/tasks?queue=listed&{query}") as response:
            return [state["etl_context_id"] for state in (await response.json())["items"]]

    assert await listed("") == [later, running, queued]
    assert await listed("state=running") == [running]
    assert await listed("state=running&state=queued") == [running, queued]
    assert await listed("state=running,scheduled") == [later, running]
    assert await listed("state=done") == []


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("colour=red", "colour"),
        ("state=lost", "state"),
        ("state=", "state"),
        ("queue=", "queue"),
        ("queue=a&queue=b", "queue"),
        ("queue=%00", "queue"),
        ("parent=x", "parent"),
        ("parent=0", "parent"),
        ("parent=1e3", "parent"),
        ("parent=null", "parent"),
        ("parent=9223372036854775808", "parent"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=1.0", "limit"),
        ("limit=%EF%BC%91", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=", "cursor"),
        ("cursor=abc", "cursor"),
        ("cursor=%FF", "cursor"),
        (f"cursor={cursors.context(1, 1)}", "cursor"),
    ],
)
async def test_a_parameter_that_does_not_fit_is_refused(house: House, query: str, parameter: str) -> None:
    async with house.get(f"/tasks?{query}") as response:
        assert (await refusal(response, 422, "invalid-input"))["parameter"] == parameter


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/tasks?limit=01", "'limit' is '01'; it is to be a whole number from 1 to 1000, in plain digits"),
        ("/tasks?parent=x", "'parent' is 'x'; it is to be a whole number from 1 to 9223372036854775807"),
        ("/tasks?queue=", "'queue' is ''; it is to be a text of 1 to 255 characters"),
        ("/contexts/1/events?type=a,", "'type' is 'a,'; it is to be a text of 1 to 255 characters"),
        ("/contexts/1/events?tree=perhaps", "'tree' is 'perhaps'; it is to be true or false"),
        ("/contexts/1/logs?attempt=-1", "'attempt' is '-1'; it is to be a whole number from 1 to 2147483647"),
    ],
)
async def test_a_parameter_that_does_not_fit_is_told_what_is_wanted(house: House, path: str, says: str) -> None:
    async with house.get(path) as response:
        assert says in (await refusal(response, 422, "invalid-input"))["detail"]


async def test_a_queued_task_is_cancelled_at_once(house: House) -> None:
    id_ = await house.new_task()
    async with house.post(f"/contexts/{id_}/cancel") as response:
        assert (response.status, (await response.json())["state"]) == (202, "cancelled")


async def test_a_running_task_is_cancelling_until_it_is_dead(house: House) -> None:
    id_ = await house.new_task()
    await house.start(id_)
    async with house.post(f"/contexts/{id_}/cancel") as response:
        assert (response.status, (await response.json())["state"]) == (202, "cancelling")
    async with house.post(f"/contexts/{id_}/cancel") as response:
        assert (await refusal(response, 409, "conflict"))["state"] == "cancelling"


async def test_a_cancelled_task_is_queued_again_by_retry(house: House) -> None:
    id_ = await house.new_task()
    async with house.post(f"/contexts/{id_}/retry") as response:
        assert (await refusal(response, 409, "conflict"))["state"] == "queued"
    async with house.post(f"/contexts/{id_}/cancel"):
        pass
    async with house.post(f"/contexts/{id_}/retry") as response:
        assert (response.status, (await response.json())["state"]) == (202, "queued")


@pytest.mark.parametrize("action", ["cancel", "retry"])
async def test_a_context_that_is_no_task_is_neither_cancelled_nor_retried(house: House, action: str) -> None:
    async with house.post(f"/contexts/{await house.new_context()}/{action}") as response:
        await refusal(response, 409, "conflict")


@pytest.mark.parametrize("action", ["cancel", "retry"])
async def test_cancel_and_retry_take_no_body(house: House, action: str) -> None:
    id_ = await house.new_task()
    async with house.post(f"/contexts/{id_}/{action}", {}) as response:
        await refusal(response, 422, "invalid-input")
    assert (await house.store.state(id_)).state == "queued"


async def test_a_queued_task_says_wherever_it_is_shown_why_nothing_runs_it(house: House, tmp_path: Path) -> None:
    id_ = await house.new_task(queue="idle")
    places = (f"/contexts/{id_}", f"/contexts/{id_}/tree", "/tasks?queue=idle")

    async def held() -> list[str | None]:
        said = []
        for place in places:
            async with house.get(place) as response:
                found = await response.json()
            (state,) = found if isinstance(found, list) else found.get("items", [found])
            said.append(state["held"])
        return said

    host_id = str((await house.store.state(id_)).host_id)  # type: ignore[attr-defined]
    nobody = f"no daemon serves host {host_id}, where it is to run; start one with `damad serve`"
    assert await held() == [nobody] * 3
    async with serving(house.database, Host(host_id, tmp_path / "dama_host_id")):
        assert await held() == [None] * 3
        async with house.ask("PATCH", "/queues/idle", json={"paused": True}):
            pass
        assert await held() == ["queue 'idle' is paused; resume it with `damad queues resume idle`"] * 3
        async with house.post(f"/contexts/{id_}/cancel"):
            pass
        assert await held() == [None] * 3
        async with house.post(f"/contexts/{id_}/retry") as response:
            assert "is paused" in (await response.json())["held"]
