"""/openapi.json and /docs: every route, as it is, for programs and for people."""

import re
from pathlib import Path
from typing import Any

import aiohttp
import http_support
import msgspec
import pytest
import pytest_asyncio
from http_support import House
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from damad.http import openapi
from damad.model import settings

house, ready = http_support.house, http_support.ready

PAGE = Path(__file__).parent.parent / "docs" / "http.md"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def task(house: House) -> int:
    """A task that requests are made of, one after another."""
    return await house.new_task()


async def document(house: House) -> dict[str, Any]:
    async with house.get("/openapi.json") as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "application/json")
        return await response.json()


async def check(house: House, schema: dict[str, Any], value: Any) -> None:
    """Fails unless a value is as a schema of the document says."""
    whole = {**schema, "components": (await document(house))["components"]}
    Draft202012Validator(whole).validate(value)


async def test_it_is_a_valid_description_in_version_3_1(house: House) -> None:
    found = await document(house)
    assert found["openapi"].startswith("3.1.")
    validate(found)


async def test_every_route_is_in_it_and_nothing_else_is(house: House) -> None:
    described = {(method.upper(), path) for path, of in (await document(house))["paths"].items() for method in of}
    routed = {(route.method, route.resource.canonical) for route in house.app.router.routes() if route.resource}
    assert described == {(method, path) for method, path in routed if method != "HEAD"}
    assert ("GET", "/v1/{pg_env}/events") in described and ("POST", "/v1/{pg_env}/tasks") in described


async def test_every_route_of_the_api_says_what_it_is_and_every_operation_has_a_route(house: House) -> None:
    for path, operations in (await document(house))["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], path
            assert re.findall(r"\{(\w+)\}", path) == [
                parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"
            ]
            assert ("requestBody" in operation) <= (method in ("post", "patch", "put"))
    handlers = {route.handler for route in house.app.router.routes()}
    assert set(openapi.OPERATIONS) <= handlers


async def test_the_document_of_the_routes_lists_each_of_them(house: House) -> None:
    listed = set(re.findall(r"`([A-Z]+) (/[^`]*)`", PAGE.read_text().split("## Pages")[0]))
    found = (await document(house))["paths"]
    assert listed == {(method.upper(), path) for path, operations in found.items() for method in operations}


async def test_names_of_operations_are_told_apart(house: House) -> None:
    names = [of["operationId"] for path in (await document(house))["paths"].values() for of in path.values()]
    assert len(set(names)) == len(names)


async def test_what_takes_parameters_names_each_of_them(house: House) -> None:
    paths = (await document(house))["paths"]
    events = paths["/v1/{pg_env}/contexts/{id}/events"]["get"]["parameters"]
    query = {parameter["name"]: parameter for parameter in events if parameter["in"] == "query"}
    assert set(query) == {"after_version", "tree", "type", "limit", "cursor", "wait"}
    assert query["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
    assert query["type"]["schema"]["type"] == "array" and not query["type"]["required"]
    final = paths["/dama-admin/{pg_env}/getEtlProcessFinalEvent"]["get"]["parameters"]
    assert [(one["name"], one["required"]) for one in final if one["in"] == "query"] == [("etlContextId", True)]


async def test_a_task_may_have_every_setting_and_nothing_else(house: House) -> None:
    task = (await document(house))["components"]["schemas"]["TaskFields"]
    assert set(task["properties"]) == settings.NAMES | {
        "worker", "payload", "initial_event", "parent_context_id", "source_id", "meta"
    }  # fmt: skip
    assert (task["required"], task["additionalProperties"]) == (["worker"], False)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/{pg_env}/tasks", {"worker": "hello.py", "expire_in": "30s"}, 201),
        ("POST", "/v1/{pg_env}/tasks", [{"worker": "hello.py", "priority": 3}], 201),
        ("POST", "/v1/{pg_env}/tasks", {"worker": 7}, 422),
        ("GET", "/v1/{pg_env}/tasks", None, 200),
        ("GET", "/v1/{pg_env}/tasks?state=nothing", None, 422),
        ("POST", "/v1/{pg_env}/contexts", {}, 201),
        ("GET", "/v1/{pg_env}/contexts/{id}", None, 200),
        ("GET", "/v1/{pg_env}/contexts/{id}/tree", None, 200),
        ("POST", "/v1/{pg_env}/contexts/{id}/events", {"type": ":A", "payload": [1]}, 201),
        ("POST", "/v1/{pg_env}/contexts/{id}/events", [{"type": ":A"}], 201),
        ("GET", "/v1/{pg_env}/contexts/{id}/events", None, 200),
        ("GET", "/v1/{pg_env}/contexts/{id}/final?timeout=0", None, 202),
        ("POST", "/v1/{pg_env}/contexts/{id}/cancel", None, 202),
        ("GET", "/v1/{pg_env}/contexts/{id}/final?timeout=0", None, 200),
        ("POST", "/v1/{pg_env}/contexts/{id}/retry", None, 202),
        ("POST", "/v1/{pg_env}/tasks/retry", {"state": ["failed"], "dry_run": True}, 200),
        ("POST", "/v1/{pg_env}/schedules", {"name": "s", "cron": "@daily", "worker": "hello.py", "jitter": "1m"}, 201),
        ("POST", "/v1/{pg_env}/schedules", {"name": "t", "cron": "@daily"}, 422),
        ("GET", "/v1/{pg_env}/schedules", None, 200),
        ("PATCH", "/v1/{pg_env}/schedules/{name}", {"cron": "@hourly", "retry_limit": 0, "jitter": None}, 200),
        ("GET", "/v1/{pg_env}/schedules/{name}?next=2", None, 200),
        ("POST", "/v1/{pg_env}/schedules/{name}/trigger", None, 201),
        (
            "POST",
            "/v1/{pg_env}/schedules/{name}/backfill",
            {"from": "2026-01-01T00:00:00Z", "until": "2026-01-01T01:00:00Z"},
            201,
        ),
        ("GET", "/v1/{pg_env}/events", None, 200),
        ("GET", "/dama-admin/{pg_env}/events/query?etl_context_id={id}", None, 200),
        ("GET", "/dama-admin/{pg_env}/getEtlProcessFinalEvent?etlContextId={id}", None, 200),
        ("GET", "/dama-admin/{pg_env}/etl/new-context-id", None, 200),
        ("GET", "/healthz", None, 200),
        ("GET", "/readyz", None, 200),
    ],
)
async def test_what_is_taken_and_answered_is_as_it_is_described(
    house: House, task: int, method: str, path: str, body: Any, status: int
) -> None:
    operation = (await document(house))["paths"][path.partition("?")[0]][method.lower()]
    given = {} if body is None else {"json": body}
    async with house.ask(method, path.format(pg_env="main", id=task, name="s"), **given) as response:
        assert response.status == status, await response.text()
        answered = msgspec.json.decode(await response.read())
    described = operation["responses"].get(str(status), operation["responses"]["default"])
    (media, content), *_ = described["content"].items()
    assert response.content_type == media
    await check(house, content["schema"], answered)
    if body is not None and status < 300:
        await check(house, operation["requestBody"]["content"]["application/json"]["schema"], body)


async def test_the_page_shows_every_route_with_nothing_foreign_in_it(house: House) -> None:
    async with aiohttp.ClientSession() as stranger, stranger.get(house.url("/docs")) as response:
        page = await response.text()
        assert (response.status, response.content_type) == (200, "text/html")
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    for path in (await document(house))["paths"]:
        assert path in page
    assert not re.search(r"<script|<link|<img|https?://|@import|url\(", page)


async def test_they_tell_strangers_nothing_of_the_databases(house: House) -> None:
    async with aiohttp.ClientSession() as stranger:
        for path in ("/openapi.json", "/docs"):
            async with stranger.get(house.url(path)) as response:
                assert response.status == 200
                assert house.database.dsn not in await response.text()
