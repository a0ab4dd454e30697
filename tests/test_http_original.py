"""The original's read routes: its paths, its parameters, its shapes, and who may ask them."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import http_support
import pytest
import pytest_asyncio
from http_support import TOKEN, House, new_database, refusal, running

from damad import config
from damad.errors import ConfigError

house = http_support.house

FRONT = "https://front.example"
FIELDS = {"event_id", "etl_context_id", "type", "payload", "meta", "error", "_created_timestamp"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def opened(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """A server that lets pages of one other origin read."""
    folder = tmp_path_factory.mktemp("opened")
    async with running(folder, await new_database(template), compat_open=(FRONT, "http://localhost:3000")) as found:
        yield found


async def ask(house: House, path: str, **given: Any) -> Any:
    async with house.get(f"/dama-admin/main{path}", **given) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def test_the_events_of_the_whole_tree_come_after_an_event_each_with_its_pg_env(house: House) -> None:
    top = await house.new_context()
    child = await house.new_context(top)
    first = await house.append(child, "gtfs:LOADED", {"rows": 3})
    await house.append(top, ":A")
    found = await ask(house, f"/events/query?etl_context_id={child}")
    assert [(event["etl_context_id"], event["type"]) for event in found] == [
        (top, ":INITIAL"), (child, ":INITIAL"), (child, "gtfs:LOADED"), (top, ":A")
    ]  # fmt: skip
    assert all(set(event) == FIELDS and event["meta"]["pgEnv"] == "main" for event in found)
    assert found[2]["payload"] == {"rows": 3}
    later = await ask(house, f"/events/query?etl_context_id={top}&event_id={first.event_id}")
    assert [event["type"] for event in later] == [":A"]
    assert await ask(house, f"/events/query?etl_context_id={top}&event_id={2**62}") == []


async def test_the_meta_of_an_event_is_kept_beside_its_pg_env(house: House) -> None:
    id_ = await house.new_context()
    async with house.post(f"/contexts/{id_}/events", {"type": ":A", "meta": {"by": "me"}}):
        pass
    assert (await ask(house, f"/events/query?etl_context_id={id_}"))[-1]["meta"] == {"by": "me", "pgEnv": "main"}


async def test_a_new_context_id_is_a_bare_number_and_a_context(house: House) -> None:
    first, second = await ask(house, "/etl/new-context-id"), await ask(house, "/etl/new-context-id")
    assert type(first) is int and second > first
    assert (await house.store.state(first)).version == 0


async def test_asking_for_the_head_of_a_new_context_id_makes_none(house: House) -> None:
    before = await ask(house, "/etl/new-context-id")
    async with house.ask("HEAD", "/dama-admin/main/etl/new-context-id") as response:
        assert response.status == 405
    assert await ask(house, "/etl/new-context-id") == before + 1


@pytest.mark.parametrize("type_", [":FINAL", ":ERROR", "gtfs:FINAL", "gtfs:ERROR"])
async def test_the_final_event_is_null_until_the_first_final_or_error(house: House, type_: str) -> None:
    id_ = await house.new_context()
    assert await ask(house, f"/getEtlProcessFinalEvent?etlContextId={id_}") is None
    recorded = await house.append(id_, type_, {"n": 1})
    if not type_.endswith("FINAL"):
        await house.append(id_, ":FINAL")
    found = await ask(house, f"/getEtlProcessFinalEvent?etlContextId={id_}")
    assert set(found) == FIELDS
    assert (found["event_id"], found["type"], found["payload"]) == (recorded.event_id, type_, {"n": 1})


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/events/query", "etl_context_id"),
        ("/events/query?event_id=1", "etl_context_id"),
        ("/events/query?etl_context_id=x", "etl_context_id"),
        ("/events/query?etl_context_id=0", "etl_context_id"),
        ("/events/query?etl_context_id=1&event_id=-1", "event_id"),
        ("/events/query?etl_context_id=1&more=1", "more"),
        ("/getEtlProcessFinalEvent", "etlContextId"),
        ("/getEtlProcessFinalEvent?etlContextId=", "etlContextId"),
        ("/getEtlProcessFinalEvent?etl_context_id=1", "etl_context_id"),
        ("/etl/new-context-id?x=1", "x"),
    ],
)
async def test_a_parameter_that_is_missing_or_does_not_fit_is_422(house: House, path: str, parameter: str) -> None:
    before = await house.event_count()
    async with house.get(f"/dama-admin/main{path}") as response:
        assert (await refusal(response, 422, "invalid-input"))["parameter"] == parameter
    assert await house.event_count() == before


@pytest.mark.parametrize("path", ["/events/query?etl_context_id", "/getEtlProcessFinalEvent?etlContextId"])
async def test_a_context_that_is_not_there_is_404(house: House, path: str) -> None:
    async with house.get(f"/dama-admin/main{path}={2**62}") as response:
        await refusal(response, 404, "not-found")
    async with house.get(f"/dama-admin/other{path}=1") as response:
        await refusal(response, 404, "not-found")


async def test_a_page_of_an_origin_that_is_named_needs_no_token_and_may_read(opened: House) -> None:
    async with aiohttp.ClientSession() as page:
        for origin in (FRONT, "HTTPS://FRONT.example", "http://localhost:3000"):
            path = opened.url("/dama-admin/main/etl/new-context-id")
            async with page.get(path, headers={"Origin": origin}) as response:
                assert response.status == 200
                assert response.headers["Access-Control-Allow-Origin"] == origin
                assert response.headers["Vary"] == "Origin"


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/dama-admin/main/etl/new-context-id", {}, 401),
        ("/dama-admin/main/etl/new-context-id", {"Origin": "https://front.example.evil"}, 403),
        ("/dama-admin/main/etl/new-context-id", {"Origin": "null"}, 403),
        ("/dama-admin/main/etl/new-context-id", {"Origin": FRONT, "Host": "evil.example"}, 421),
        ("/v1/main/tasks", {"Origin": FRONT}, 403),
        ("/v1/main/tasks", {"Origin": FRONT, "Authorization": f"Bearer {TOKEN}"}, 403),
        ("/v1/dama-admin/tasks", {"Origin": FRONT}, 403),
    ],
)
async def test_nothing_else_is_open_to_anybody_else(
    opened: House, path: str, headers: dict[str, str], status: int
) -> None:
    async with aiohttp.ClientSession() as page, page.get(opened.url(path), headers=headers) as response:
        assert response.status == status


async def test_who_was_let_in_by_their_origin_is_let_in_to_nothing_else(opened: House) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as page:
        for path, status in (("/dama-admin/main/etl/new-context-id", 200), ("/v1/main/tasks", 403)):
            async with page.get(opened.url(path), headers={"Origin": FRONT}) as response:
                assert response.status == status


async def test_without_the_setting_the_token_is_needed_and_no_other_origin_is_let_in(house: House) -> None:
    path = house.url("/dama-admin/main/etl/new-context-id")
    async with aiohttp.ClientSession() as page:
        async with page.get(path) as response:
            await refusal(response, 401, "unauthorized")
        async with page.get(path, headers={"Origin": FRONT}) as response:
            await refusal(response, 403, "forbidden-origin")
    assert type(await ask(house, "/etl/new-context-id")) is int


def test_the_setting_is_a_list_of_origins() -> None:
    assert config.load({}, environ={"DAMAD_COMPAT_OPEN": f"{FRONT},http://[::1]:3000", "HOME": "/"}).compat_open == (
        FRONT, "http://[::1]:3000"
    )  # fmt: skip


@pytest.mark.parametrize("wrong", ["front.example", "https://", "https://a/b", "*", "null", "ftp://a", f"{FRONT}\0"])
def test_what_is_no_origin_is_refused_in_one_line(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"DAMAD_COMPAT_OPEN: compat_open: .* is no origin"):
        config.load({}, environ={"DAMAD_COMPAT_OPEN": wrong, "HOME": "/"})
