"""POST and GET /contexts/{id}/events, page by page. (Live: test_http_streams.py.)"""

from typing import Any
from uuid import uuid4

import http_support
import lost_answers
import pytest
from http_support import House, refusal

from damad.http import cursors

house = http_support.house

FIELDS = [
    "event_id", "etl_context_id", "version", "event_uuid", "type", "payload", "meta", "error", "_created_timestamp"
]  # fmt: skip

FIRST_TIME = lost_answers.first_time()
"""How an event is answered that nobody sent before. One whose uuid the client drew, and whose first answer is lost on
the way from Postgres (tests/faults/test_lost_answers.py), has been recorded already when it is looked for again."""


async def test_an_event_is_appended_and_answered_as_recorded(house: House) -> None:
    id_ = await house.new_context()
    event = {"type": "gtfs:LOADED", "payload": {"rows": 3}, "meta": {"by": "me"}, "error": False}
    async with house.post(f"/contexts/{id_}/events", event) as response:
        recorded = await response.json()
        assert response.status == 201
    assert list(recorded) == FIELDS
    assert (recorded["etl_context_id"], recorded["version"]) == (id_, 2)
    assert {name: recorded[name] for name in event} == event


async def test_an_array_is_appended_in_its_order_and_answered_with_an_array(house: House) -> None:
    id_ = await house.new_context()
    async with house.post(f"/contexts/{id_}/events", [{"type": ":A"}, {"type": ":B"}]) as response:
        recorded = await response.json()
        assert response.status == 201
    assert [(event["type"], event["version"]) for event in recorded] == [(":A", 2), (":B", 3)]
    async with house.post(f"/contexts/{id_}/events", [{"type": ":C"}]) as response:
        assert [event["version"] for event in await response.json()] == [4]


async def test_an_array_with_one_bad_event_appends_none(house: House) -> None:
    id_ = await house.new_context()
    async with house.post(f"/contexts/{id_}/events", [{"type": ":A"}, {"type": "B"}]) as response:
        await refusal(response, 422, "invalid-input", "/1/type")
    async with house.post(f"/contexts/{id_}/events", [{"type": ":A"}, {"type": ":INITIAL"}]) as response:
        await refusal(response, 409, "illegal-transition")
    assert (await house.store.state(id_)).version == 1


@pytest.mark.parametrize(
    "payload", [None, True, 0, -1.5, "", "snow ☃", [], [1, [2, [3]]], {}, {"a": [{"b": None}]}, 2**63 - 1, 1e20, 1e-300]
)
async def test_a_payload_comes_back_as_it_was_sent(house: House, payload: Any) -> None:
    id_ = await house.new_context()
    async with house.ask("POST", f"/contexts/{id_}/events", json={"type": ":A", "payload": payload}) as response:
        assert (await response.json())["payload"] == payload
    async with house.get(f"/contexts/{id_}/events?after_version=1") as response:
        assert (await response.json())["items"][0]["payload"] == payload


async def test_a_large_double_comes_back_as_the_same_number_with_all_its_digits(house: House) -> None:
    event = {"type": ":A", "payload": 1.7976931348623157e308}
    async with house.post(f"/contexts/{await house.new_context()}/events", event) as response:
        assert float((await response.json())["payload"]) == 1.7976931348623157e308


async def test_the_same_event_again_is_200_and_the_first_row_also_after_final(house: House) -> None:
    id_ = await house.new_context()
    event = {"type": ":LOADED", "payload": [1], "event_uuid": str(uuid4())}
    async with house.post(f"/contexts/{id_}/events", event) as response:
        first = await response.json()
        assert response.status in FIRST_TIME
    await house.append(id_, ":FINAL")
    async with house.post(f"/contexts/{id_}/events", event) as response:
        assert (response.status, await response.json()) == (200, first)
    async with house.post(f"/contexts/{id_}/events", [event]) as response:
        assert (response.status, await response.json()) == (200, [first])


@pytest.mark.parametrize("changed", [{"payload": [2]}, {"type": ":OTHER"}, {"meta": {}}, {"error": True}])
async def test_the_same_event_uuid_with_another_body_is_refused(house: House, changed: dict[str, Any]) -> None:
    id_ = await house.new_context()
    event = {"type": ":LOADED", "payload": [1], "event_uuid": str(uuid4())}
    async with house.post(f"/contexts/{id_}/events", event):
        pass
    async with house.post(f"/contexts/{id_}/events", event | changed) as response:
        assert (await refusal(response, 409, "event-uuid-conflict"))["version"] == 2


async def test_the_same_event_uuid_in_another_context_is_refused(house: House) -> None:
    event = {"type": ":LOADED", "event_uuid": str(uuid4())}
    async with house.post(f"/contexts/{await house.new_context()}/events", event):
        pass
    async with house.post(f"/contexts/{await house.new_context()}/events", event) as response:
        await refusal(response, 409, "event-uuid-conflict")


async def test_an_event_is_appended_only_at_the_version_it_expects(house: House) -> None:
    id_ = await house.new_context()
    async with house.post(f"/contexts/{id_}/events", {"type": ":A", "expected_version": 1}) as response:
        assert response.status == 201
    async with house.post(f"/contexts/{id_}/events", {"type": ":A", "expected_version": 1}) as response:
        document = await refusal(response, 409, "version-conflict")
    assert (document["version"], document["expected_version"]) == (2, 1)
    two = [{"type": ":B", "expected_version": 2}, {"type": ":C"}]
    async with house.post(f"/contexts/{id_}/events", two) as response:
        assert [event["version"] for event in await response.json()] == [3, 4]


@pytest.mark.parametrize("versions", [(1, 2, 3), (None, 2, None), (None, None, 3), (1, None, None)])
async def test_each_event_of_an_array_may_say_which_version_it_expects(
    house: House, versions: tuple[int | None, ...]
) -> None:
    id_ = await house.new_context()
    events = [{"type": ":A", "expected_version": version} for version in versions]
    async with house.ask("POST", f"/contexts/{id_}/events", json=events) as response:
        assert [event["version"] for event in await response.json()] == [2, 3, 4]


@pytest.mark.parametrize("versions", [(2, None), (None, 1), (None, 3), (1, 1), (1, 2**63 - 1), (2**63 - 1, None)])
async def test_an_array_of_which_one_event_expects_another_version_is_refused_whole(
    house: House, versions: tuple[int | None, ...]
) -> None:
    id_ = await house.new_context()
    events = [{"type": ":A", "expected_version": version} for version in versions]
    async with house.ask("POST", f"/contexts/{id_}/events", json=events) as response:
        await refusal(response, 409, "version-conflict")
    assert (await house.store.state(id_)).version == 1


async def test_what_the_log_s_state_forbids_is_409_and_says_why(house: House) -> None:
    id_ = await house.store.create_context()
    async with house.post(f"/contexts/{id_}/events", {"type": ":LOADED"}) as response:
        document = await refusal(response, 409, "illegal-transition")
    assert (document["state"], document["event_type"]) == ("new", ":LOADED")
    assert document["detail"] == f"the first event of context {id_} must be its :INITIAL, not :LOADED"
    for type_, status in ((":INITIAL", 201), (":INITIAL", 409), (":FINAL", 201), (":FINAL", 409), (":LATE", 409)):
        async with house.post(f"/contexts/{id_}/events", {"type": type_}) as response:
            assert response.status == status, await response.text()


@pytest.mark.parametrize(
    ("event", "pointer"),
    [
        ({}, "/type"),
        ({"type": None}, "/type"),
        ({"type": ""}, "/type"),
        ({"type": "loaded"}, "/type"),
        ({"type": ":loaded"}, "/type"),
        ({"type": ":LOADED\n"}, "/type"),
        ({"type": "é:LOADED"}, "/type"),
        ({"type": "a" * 249 + ":LOADED"}, "/type"),
        ({"type": "dama/task:CLAIMED"}, "/type"),
        ({"type": "dama/task:MINE"}, "/type"),
        ({"type": ":A", "meta": []}, "/meta"),
        ({"type": ":A", "meta": {"__dama_task_manager__": {}}}, "/meta/__dama_task_manager__"),
        ({"type": ":A", "error": "no"}, "/error"),
        ({"type": ":A", "event_uuid": "1"}, "/event_uuid"),
        ({"type": ":A", "event_id": 1}, "/event_id"),
        ({"type": ":A", "version": 1}, "/version"),
        ({"type": ":A", "fence": 1}, "/fence"),
        ({"type": ":A", "expected_version": -1}, "/expected_version"),
        ({"type": ":A", "expected_version": "1"}, "/expected_version"),
        ([{"type": ":A", "fence": 1}], "/0/fence"),
        ([{"type": "A"}], "/0/type"),
        ([{"type": ":A"}, {"type": ":A", "expected_version": -1}], "/1/expected_version"),
        ([[]], None),
        ([], None),
        ("x", None),
        (1, None),
    ],
)
async def test_an_event_that_does_not_fit_is_refused(house: House, event: Any, pointer: str | None) -> None:
    id_ = await house.new_context()
    async with house.ask("POST", f"/contexts/{id_}/events", json=event) as response:
        await refusal(response, 422, "invalid-input", pointer)
    assert (await house.store.state(id_)).version == 1


async def test_a_type_of_255_characters_is_taken(house: House) -> None:
    async with house.post(f"/contexts/{await house.new_context()}/events", {"type": "a" * 248 + ":LOADED"}) as response:
        assert response.status == 201


async def test_events_are_read_page_by_page_in_order(house: House) -> None:
    id_ = await house.new_context()
    for _ in range(4):
        await house.append(id_, ":LOADED")
    assert await _versions(house, f"/contexts/{id_}/events", "limit=2") == [[1, 2], [3, 4], [5]]
    assert await _versions(house, f"/contexts/{id_}/events", "limit=5") == [[1, 2, 3, 4, 5]]
    assert await _versions(house, f"/contexts/{id_}/events", "after_version=3") == [[4, 5]]
    assert await _versions(house, f"/contexts/{id_}/events", "after_version=5") == [[]]


async def test_events_are_read_by_type(house: House) -> None:
    id_ = await house.new_context()
    for type_ in (":A", ":B", ":A", ":C"):
        await house.append(id_, type_)
    assert await _versions(house, f"/contexts/{id_}/events", "type=:A&limit=1") == [[2], [4]]
    assert await _versions(house, f"/contexts/{id_}/events", "type=:A&type=:C") == [[2, 4, 5]]
    assert await _versions(house, f"/contexts/{id_}/events", "type=:A,:B") == [[2, 3, 4]]


async def test_a_context_without_events_is_an_empty_page(house: House) -> None:
    async with house.get(f"/contexts/{await house.store.create_context()}/events") as response:
        assert (response.status, await response.json()) == (200, {"items": [], "next": None})


async def test_the_events_of_a_tree_are_read_page_by_page_each_once(house: House) -> None:
    top = await house.new_context()
    middle = await house.new_context(top)
    leaf = await house.new_context(middle)
    sibling = await house.new_context(top)
    for id_ in (leaf, top, middle, leaf, sibling):
        await house.append(id_, ":LOADED")
    expected = {(top, 1), (top, 2), (middle, 1), (middle, 2), (leaf, 1), (leaf, 2), (leaf, 3)}
    seen, query = [], "tree=1&limit=2"
    while query:
        async with house.get(f"/contexts/{middle}/events?{query}") as response:
            page = await response.json()
        seen += [(event["etl_context_id"], event["version"]) for event in page["items"]]
        query = f"tree=1&limit=2&cursor={page['next']}" if page["next"] else ""
    assert (len(seen), set(seen)) == (len(expected), expected)


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("after_version=-1", "after_version"),
        ("after_version=x", "after_version"),
        ("after_version=9223372036854775808", "after_version"),
        ("tree=yes", "tree"),
        ("tree=1&tree=1", "tree"),
        ("tree=1&after_version=1", "after_version"),
        ("type=", "type"),
        ("type=%00", "type"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=", "cursor"),
        ("fence=1", "fence"),
        (f"cursor={cursors.context(1, 1)}&after_version=1", "after_version"),
        (f"cursor={cursors.context(2**62, 1)}", "cursor"),
        (f"cursor={cursors.tree(1, {1: 1})}", "cursor"),
        (f"cursor={cursors.tree(2**62, {1: 1})}&tree=1", "cursor"),
        (f"cursor={cursors.tasks(1)}&tree=1", "cursor"),
    ],
)
async def test_a_parameter_that_does_not_fit_is_refused(house: House, query: str, parameter: str) -> None:
    async with house.get(f"/contexts/{await house.new_context()}/events?{query}") as response:
        assert (await refusal(response, 422, "invalid-input"))["parameter"] == parameter


async def _versions(house: House, path: str, query: str) -> list[list[int]]:
    pages, cursor = [], None
    while True:
        async with house.get(f"{path}?{query}" + (f"&cursor={cursor}" if cursor else "")) as response:
            page = await response.json()
        pages.append([event["version"] for event in page["items"]])
        if (cursor := page["next"]) is None:
            return pages
