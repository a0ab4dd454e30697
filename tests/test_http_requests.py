"""What may be sent at all: bodies, media types, limits, and what is no HTTP. After each refusal all is as it was."""

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator

import http_support
import pytest
import pytest_asyncio
from http_support import SOON, TOKEN, House, new_database, raw, refusal, running

house = http_support.house

JSON = {"Content-Type": "application/json"}


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def unmoved(house: House, caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Bad input appends nothing, leaves the server alive and nothing but quiet in the log."""
    before = await house.event_count()
    yield
    async with house.get("/healthz") as response:
        assert response.status == 200
    assert await house.event_count() == before
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("body", "status", "name"),
    [
        (b"", 400, "invalid-json"),
        (b"{", 400, "invalid-json"),
        (b"\xef\xbb\xbf{}", 400, "invalid-json"),
        (b'{"worker": "\xff"}', 400, "invalid-json"),
        (b'{"worker": "hello.py", "worker": "hello.py"}', 400, "invalid-json"),
        (b'{"worker": "hello.py", "payload": NaN}', 400, "invalid-json"),
        (b'{"worker": "hello.py", "payload": "\\ud800"}', 400, "invalid-json"),
        (b'{"worker": "hello.py", "payload": ' + b"[" * 64 + b"]" * 64 + b"}", 400, "invalid-json"),
        (b"[" * 100_000, 400, "invalid-json"),
        (b'{"worker": "hello.py", "payload": "\\u0000"}', 422, "invalid-input"),
        (b'{"worker": "hello.py", "meta": {"\\u0000": 1}}', 422, "invalid-input"),
        (b'{"worker": "hello.py", "payload": 9223372036854775808}', 422, "invalid-input"),
        (b'{"worker": "hello.py", "payload": 1e400}', 422, "invalid-input"),
        (b'{"worker": "hello.py", "payload": ' + b"9" * 5000 + b"}", 422, "invalid-input"),
    ],
)
@pytest.mark.parametrize("path", ["/tasks", "/contexts", "/contexts/1/events"])
async def test_a_body_that_is_no_json_or_does_not_fit_is_refused(
    house: House, path: str, body: bytes, status: int, name: str
) -> None:
    async with house.ask("POST", path, data=body, headers=JSON) as response:
        await refusal(response, status, name)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/jsonp"},
        {"Content-Type": "json"},
        {"Content-Type": ""},
        {},
    ],
)
async def test_a_body_that_is_not_application_json_in_utf_8_is_refused(house: House, headers: dict[str, str]) -> None:
    skip = {"skip_auto_headers": ["Content-Type"]}
    async with house.ask("POST", "/tasks", data=b'{"worker": "hello.py"}', headers=headers, **skip) as response:
        await refusal(response, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=UTF-8", "Application/JSON", 'application/json;charset="utf-8"']
)
async def test_a_media_type_may_name_utf_8(house: House, media_type: str) -> None:
    async with house.ask("POST", "/contexts", data=b"{}", headers={"Content-Type": media_type}) as response:
        assert response.status == 201


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, identity", "x"])
async def test_a_compressed_body_is_refused_unread(house: House, encoding: str) -> None:
    body = gzip.compress(b" " * 50_000_000)
    head = {**JSON, "Content-Encoding": encoding}
    async with house.ask("POST", "/contexts", data=body, headers=head) as response:
        await refusal(response, 415, "unsupported-media-type")
        assert response.headers["Accept-Encoding"] == "identity"


async def test_a_body_over_the_limit_is_refused_by_its_length_and_by_its_bytes(template: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    async with running(tmp_path, await new_database(template), max_body=1000) as small:
        fits = json.dumps({"worker": "hello.py", "payload": "x" * 900}).encode()
        async with small.ask("POST", "/tasks", data=fits.ljust(1000), headers=JSON) as response:
            assert response.status == 201
        for body in (fits.ljust(1001), _chunks(fits.ljust(1001)), _chunks(b"x" * 5_000_000)):
            async with small.ask("POST", "/tasks", data=body, headers=JSON) as response:
                assert (await refusal(response, 413, "too-large"))["max_body"] == 1000
        async with small.ask("POST", "/contexts", data=_chunks(b"{", b"}"), headers=JSON) as response:
            assert response.status == 201


async def test_numbers_that_are_long_when_they_are_read_back_count_in_full(template: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    async with running(tmp_path, await new_database(template), max_body=10_000) as small:
        for number, status in ((1.5, 201), (1e308, 413), (1e-308, 413)):
            async with small.post("/tasks", {"worker": "hello.py", "payload": [number] * 100}) as response:
                assert response.status == status


async def test_half_a_body_is_408_when_its_time_is_over(template: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    async with running(tmp_path, await new_database(template), body_timeout=0.2) as hasty:
        for path in ("/tasks", "/contexts/1/cancel"):
            head, body = await raw(hasty, _head("POST", f"/v1/main{path}", "Content-Length: 10") + b"{")
            assert (head[:12], json.loads(body)["type"]) == (b"HTTP/1.1 408", "urn:damad:problem:body-timeout")


@pytest.mark.parametrize(
    "sent", [b"G", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"\r\n"]
)
async def test_half_a_head_is_408_when_its_time_is_over(template: str, tmp_path, sent: bytes) -> None:  # type: ignore[no-untyped-def]
    async with running(tmp_path, await new_database(template), body_timeout=0.2) as hasty:
        head, body = await raw(hasty, sent)
        assert (head[:12], json.loads(body)["type"]) == (b"HTTP/1.1 408", "urn:damad:problem:head-timeout")


async def test_half_a_head_after_a_request_is_408_too(template: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    async with running(tmp_path, await new_database(template), body_timeout=0.2) as hasty:
        reader, writer = await asyncio.open_connection(hasty.addresses.host, hasty.addresses.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(SOON):
            assert await reader.readuntil(b"}") != b""
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: local")
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_a_head_that_comes_byte_by_byte_has_no_more_time(template: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    async with running(tmp_path, await new_database(template), body_timeout=0.2) as hasty:
        reader, writer = await asyncio.open_connection(hasty.addresses.host, hasty.addresses.port)
        answer = asyncio.create_task(reader.readline())
        writer.write(b"GET /")
        async with asyncio.timeout(SOON):
            while not answer.done():
                writer.write(b"x")
                async with hasty.get("/healthz") as response:
                    assert response.status == 200
        assert answer.result() == b"HTTP/1.1 408 Request Timeout\r\n"
        writer.close()


async def test_a_chunked_body_that_breaks_off_is_400(house: House) -> None:
    chunked = _head("POST", "/v1/main/tasks", "Transfer-Encoding: chunked")
    for bad in (b"1\r\n{zz\r\n", b"zz\r\n", b"-1\r\n"):
        head, body = await raw(house, chunked + bad)
        assert (head[9:12], json.loads(body)["type"]) == (b"400", "urn:damad:problem:bad-request")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\r\n\r\nnonsense\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"GET /healthz\r\n\r\n", b"505"),
        (b"GET /healthz HTTP/0.9\r\n\r\n", b"505"),
        (b"GET /healthz HTTP/2.0\r\nHost: localhost\r\n\r\n", b"505"),
        (b"GET /healthz HTTP/1.0\r\n\r\n", b"421"),
        (b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n", b"200"),
    ],
)
async def test_what_is_no_http_is_answered_with_a_problem_and_closed(house: House, sent: bytes, status: bytes) -> None:
    head, body = await raw(house, sent)
    assert head[9:12] == status
    if status != b"200":
        assert b"application/problem+json" in head
        assert json.loads(body)["status"] == int(status)


async def test_a_body_in_a_transfer_encoding_but_chunked_is_refused(house: House) -> None:
    sent = _head("POST", "/v1/main/tasks", "Transfer-Encoding: gzip, chunked", "Connection: close") + b"0\r\n\r\n"
    head, body = await raw(house, sent)
    assert (head[9:12], json.loads(body)["type"]) == (b"415", "urn:damad:problem:unsupported-media-type")


async def test_a_body_is_asked_for_only_once_the_request_is_let_in(house: House) -> None:
    reader, writer = await asyncio.open_connection(house.addresses.host, house.addresses.port)
    writer.write(_head("POST", "/v1/main/contexts", "Content-Length: 2", "Expect: 100-continue", "Connection: close"))
    async with asyncio.timeout(SOON):
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        writer.write(b"{}")
        assert b"HTTP/1.1 201" in await reader.read()
    writer.close()
    refused = b"POST /v1/main/contexts HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    assert (await raw(house, refused))[0][9:12] == b"401"


async def test_an_expectation_that_nobody_meets_is_417(house: House) -> None:
    async with house.ask("POST", "/contexts", json={}, headers={"Expect": "miracles"}) as response:
        await refusal(response, 417, "expectation-failed")


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/main", "/v1/main/", "/v1/main/nothing", "/v1/main/contexts/1/", "/v1//tasks"]
)
async def test_a_path_that_leads_nowhere_is_404(house: House, path: str) -> None:
    async with house.get(path) as response:
        await refusal(response, 404, "not-found")


@pytest.mark.parametrize("pg_env", ["other", "MAIN", "main%00", "ma in", "%ff", "1"])
async def test_an_unknown_pg_env_is_404(house: House, pg_env: str) -> None:
    async with house.get(f"/v1/{pg_env}/tasks") as response:
        await refusal(response, 404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/tasks", {"GET", "HEAD", "POST"}),
        ("PUT", "/contexts", {"POST"}),
        ("GET", "/contexts", {"POST"}),
        ("POST", "/contexts/1", {"GET", "HEAD"}),
        ("GET", "/contexts/1/cancel", {"POST"}),
        ("PATCH", "/contexts/1/events", {"GET", "HEAD", "POST"}),
        ("POST", "/healthz", {"GET", "HEAD"}),
    ],
)
async def test_a_method_that_a_path_does_not_have_is_405(
    house: House, method: str, path: str, allowed: set[str]
) -> None:
    async with house.ask(method, path) as response:
        await refusal(response, 405, "method-not-allowed")
        assert set(response.headers["Allow"].split(",")) == allowed


@pytest.mark.parametrize(
    "path", ["/tasks", "/contexts", "/contexts/1/events", "/contexts/1/cancel", "/contexts/1/retry"]
)
async def test_a_post_takes_no_parameters(house: House, path: str) -> None:
    async with house.post(f"{path}?force=1", {}) as response:
        assert (await refusal(response, 422, "invalid-input"))["parameter"] == "force"


async def test_a_large_body_does_not_keep_others_waiting_for_ever(house: House) -> None:
    body = b'{"worker": "hello.py", "payload": [' + b"0," * 1_000_000 + b"1e400]}"
    async with asyncio.timeout(6 * SOON), asyncio.TaskGroup() as group:
        large = group.create_task(_status(house, body))
        while not large.done():
            async with house.get("/healthz") as response:
                assert response.status == 200
    assert large.result() == 422


async def _status(house: House, body: bytes) -> int:
    async with house.ask("POST", "/tasks", data=body, headers=JSON) as response:
        return response.status


async def _chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def _head(method: str, path: str, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {TOKEN}", *headers]
    return "\r\n".join([*lines, "Content-Type: application/json", "", ""]).encode()
