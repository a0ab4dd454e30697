"""/schedules: adding, reading, changing, removing, triggering, filling in; and what is refused."""

from datetime import UTC, datetime, timedelta
from typing import Any

import http_support
import pytest
from http_support import House, refusal

from damad.http import cursors

house = http_support.house

NIGHTLY = {"name": "nightly", "cron": "30 2 * * *", "zone": "Europe/Berlin", "worker": "hello.py"}


async def add(house: House, **given: Any) -> dict[str, Any]:
    async with house.post("/schedules", {**NIGHTLY, **given}) as response:
        assert response.status == 201, await response.text()
        made: dict[str, Any] = await response.json()
    return made


async def test_a_schedule_is_added_and_says_where_it_is_and_when_it_runs(house: House) -> None:
    body = {**NIGHTLY, "payload": {"name": "world"}, "overlap": "buffer_one", "missed": "all", "retry_limit": 3}
    async with house.post("/schedules", body) as response:
        made = await response.json()
        assert (response.status, response.headers["Location"]) == (201, "/v1/main/schedules/nightly")
    assert {name: made[name] for name in body} == body
    assert made["paused"] is False
    async with house.get(response.headers["Location"] + "?next=3") as response:
        read = await response.json()
    runs = [datetime.fromisoformat(run) for run in read["next_runs"]]
    assert len(runs) == 3
    assert timedelta(hours=22) < runs[1] - runs[0] < timedelta(hours=26)
    assert runs[0] == datetime.fromisoformat(read["next_tick"])
    assert read == {**made, "next_runs": read["next_runs"]}


async def test_schedules_are_listed_page_by_page(house: House) -> None:
    for name in ("b", "a", "c"):
        await add(house, name=f"listed-{name}")
    seen, cursor = list[str](), ""
    while True:
        async with house.get(f"/schedules?limit=1{cursor}") as response:
            page = await response.json()
        seen += [item["name"] for item in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert [name for name in seen if name.startswith("listed")] == ["listed-a", "listed-b", "listed-c"]
    assert len(set(seen)) == len(seen)


async def test_a_patch_changes_what_it_names_and_null_takes_back(house: House) -> None:
    await add(house, name="patched", payload=1, retry_limit=5, jitter="1m")
    async with house.ask(
        "PATCH", "/schedules/patched", json={"paused": True, "payload": None, "priority": 2}
    ) as response:
        assert response.status == 200
        changed = await response.json()
    assert (changed["paused"], changed["payload"], changed["priority"]) == (True, None, 2)
    assert (changed["retry_limit"], changed["jitter"], changed["cron"]) == (5, 60, "30 2 * * *")


async def test_one_that_is_removed_is_gone(house: House) -> None:
    await add(house, name="removed")
    async with house.ask("DELETE", "/schedules/removed") as response:
        assert (response.status, await response.text()) == (204, "")
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/trigger")):
        async with house.ask(method, f"/schedules/removed{path}") as response:
            await refusal(response, 404, "not-found")


async def test_a_trigger_queues_a_task_whose_state_names_the_schedule(house: House) -> None:
    await add(house, name="triggered", payload={"name": "world"})
    async with house.ask("POST", "/schedules/triggered/trigger") as response:
        assert response.status == 201
        made = await response.json()
    async with house.get(response.headers["Location"]) as response:
        state = await response.json()
    assert (state["etl_context_id"], state["schedule"]) == (made["etl_context_id"], "triggered")
    async with house.get(f"/contexts/{await house.new_task()}") as response:
        assert (await response.json())["schedule"] is None


async def test_a_backfill_queues_the_ticks_of_a_range(house: House) -> None:
    await add(house, name="filled", zone="UTC")
    body = {"from": "2026-01-02T00:00:00Z", "until": "2026-01-03T23:00:00+00:00"}
    async with house.post("/schedules/filled/backfill", body) as response:
        assert response.status == 201
        made = await response.json()
    assert [tick["tick"] for tick in made] == ["2026-01-02T02:30:00Z", "2026-01-03T02:30:00Z"]
    async with house.post("/schedules/filled/backfill", body) as response:
        assert (response.status, await response.json()) == (201, [])


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ({"name": 5}, "/name"), ({"name": "a/b"}, "/name"), ({"name": None}, "/name"), ({"cron": "* * *"}, "/cron"),
        ({"cron": ["*"]}, "/cron"), ({"zone": "Berlin"}, "/zone"), ({"worker": "gone.py"}, "/worker"),
        ({"worker": 1}, "/worker"), ({"overlap": "yes"}, "/overlap"), ({"missed": "two"}, "/missed"),
        ({"missed_within": {}}, "/missed_within"), ({"jitter": "soon"}, "/jitter"), ({"paused": 1}, "/paused"),
        ({"start_after": "1s"}, "/start_after"), ({"idempotency_key": "k"}, "/idempotency_key"),
        ({"unknown": 1}, "/unknown"), ({"a/b~": 1}, "/a~1b~0"), ({"retry_limit": 1.5}, "/retry_limit"),
        ({"source_id": 12345}, "/source_id"), ({"meta": {"__dama_task_manager__": {}}}, "/meta/__dama_task_manager__"),
    ],
)  # fmt: skip
async def test_what_does_not_fit_is_refused_with_a_pointer(house: House, given: dict[str, Any], pointer: str) -> None:
    name = "invalid-worker" if given.get("worker") == "gone.py" else "invalid-input"
    async with house.post("/schedules", {**NIGHTLY, "name": "refused", **given}) as response:
        await refusal(response, 422, name, pointer)
    if "name" not in given:
        await add(house, name="kept")
        async with house.ask("PATCH", "/schedules/kept", json=given) as response:
            await refusal(response, 422, name, pointer)
        async with house.ask("DELETE", "/schedules/kept"):
            pass
    async with house.get("/schedules/refused") as response:
        await refusal(response, 404, "not-found")


@pytest.mark.parametrize("field", ["name", "cron", "worker"])
async def test_what_every_schedule_has_must_be_there(house: House, field: str) -> None:
    async with house.post("/schedules", {key: value for key, value in NIGHTLY.items() if key != field}) as response:
        await refusal(response, 422, "invalid-input", f"/{field}")


@pytest.mark.parametrize("body", [[], [NIGHTLY], "text", 5])
async def test_what_is_no_object_is_refused(house: House, body: Any) -> None:
    for method, path in (("POST", "/schedules"), ("PATCH", "/schedules/nightly")):
        async with house.ask(method, path, json=body) as response:
            await refusal(response, 422, "invalid-input")


async def test_a_name_that_is_taken_is_a_conflict_and_one_that_is_changed_is_refused(house: House) -> None:
    await add(house, name="taken")
    async with house.post("/schedules", {**NIGHTLY, "name": "taken"}) as response:
        await refusal(response, 409, "conflict")
    async with house.ask("PATCH", "/schedules/taken", json={"name": "other"}) as response:
        await refusal(response, 422, "invalid-input", "/name")


@pytest.mark.parametrize("query", ["next=-1", "next=1001", "next=x", "nex=1", "next=1&next=2"])
async def test_a_number_of_runs_that_is_none_is_refused(house: House, query: str) -> None:
    async with house.get(f"/schedules/nobody?{query}") as response:
        assert (await refusal(response, 422, "invalid-input"))["parameter"] in ("next", "nex")


@pytest.mark.parametrize("cursor", ["x", "", cursors.tasks(5), cursors.schedules("a")[:-2], "WyJzY2hlZHVsZXMiLDI1NV0"])
async def test_a_cursor_of_something_else_is_refused(house: House, cursor: str) -> None:
    async with house.get(f"/schedules?cursor={cursor}") as response:
        await refusal(response, 422, "invalid-input")


@pytest.mark.parametrize(
    "body",
    [
        {}, {"from": "2026-01-01T00:00:00Z"}, {"from": "yesterday", "until": "2026-01-02T00:00:00Z"},
        {"from": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"},
        {"from": "2026-01-01T00:00:00", "until": "2026-01-02T00:00:00"},
        {"from": "2026-01-01T00:00:00Z", "until": "9999-12-31T23:59:59-10:00"},
        {"from": "2026-01-01T00:00:00Z", "until": (datetime.now(UTC) + timedelta(days=1)).isoformat()},
        {"from": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z", "also": 1}, [],
    ],
)  # fmt: skip
async def test_a_range_that_is_none_is_refused(house: House, body: Any) -> None:
    await add(house, name="ranged")
    async with house.post("/schedules/ranged/backfill", body) as response:
        await refusal(response, 422, "invalid-input")
    async with house.ask("DELETE", "/schedules/ranged"):
        pass


@pytest.mark.parametrize("name", ["nobody", "%00", "a%2Fb", "..%2F", "%F0%9F%92%A9", "x" * 300])
async def test_a_schedule_that_is_not_there_is_not_found_whatever_its_name_looks_like(house: House, name: str) -> None:
    async with house.get(f"/schedules/{name}") as response:
        assert response.status == 404
    async with house.ask("PATCH", f"/schedules/{name}", json={"paused": True}) as response:
        assert response.status == 404


async def test_one_that_plain_sql_wrote_wrong_is_shown_with_its_error_and_keeps_no_other_from_being_shown(
    house: House,
) -> None:
    await add(house, name="right")
    async with house.database.connection() as connection:
        await connection.execute(
            "INSERT INTO data_manager.dama_schedules (name, cron, zone, worker) VALUES ('wrong', 'x', 'y', 'hello.py')"
        )
    async with house.get("/schedules?limit=1000") as response:
        assert response.status == 200
        errors = {item["name"]: item["error"] for item in (await response.json())["items"]}
    assert errors["right"] is None
    async with house.get("/schedules/wrong") as response:
        read = await response.json()
        assert (response.status, read["next_runs"]) == (200, [])
    assert read["error"] == errors["wrong"] == "'y' is no IANA time zone, like Europe/Berlin"
    async with house.ask("DELETE", "/schedules/wrong") as response:
        assert response.status == 204
