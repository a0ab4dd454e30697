"""Postgres away: 503 and never 500; what waits goes on when it is back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from http_support import SOON, House, new_database, refusal, running, streaming
from postgres_support import make_template

from damad.eventstore.embedded import EmbeddedPostgres


@pytest.fixture
def postgres(tmp_path: Path) -> Any:
    own = EmbeddedPostgres(tmp_path / "pg")
    own.join()
    yield own
    own.leave()


@pytest_asyncio.fixture(loop_scope="session")
async def house(postgres: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[House]:
    await make_template(postgres.dsn)
    async with running(tmp_path, await new_database(postgres.dsn)) as found:
        yield found


async def test_without_postgres_all_is_503_with_retry_after_and_then_all_is_as_before(
    house: House, postgres: EmbeddedPostgres
) -> None:
    task = await house.new_task()
    house.write_log(task, "begun\n")
    requests: list[tuple[str, str, Any]] = [
        ("GET", "/tasks", None),
        ("POST", "/tasks", {"worker": "hello.py"}),
        ("POST", "/tasks/retry", {"state": ["failed"]}),
        ("POST", "/contexts", {}),
        ("GET", f"/contexts/{task}", None),
        ("GET", f"/contexts/{task}/tree", None),
        ("GET", f"/contexts/{task}/events", None),
        ("GET", f"/contexts/{task}/events?tree=1", None),
        ("POST", f"/contexts/{task}/events", {"type": ":A"}),
        ("GET", f"/contexts/{task}/final?timeout=0", None),
        ("GET", f"/contexts/{task}/final", None),
        ("POST", f"/contexts/{task}/cancel", None),
        ("POST", f"/contexts/{task}/retry", None),
        ("GET", f"/contexts/{task}/logs", None),
        ("GET", "/events", None),
        ("GET", f"/dama-admin/main/events/query?etl_context_id={task}", None),
        ("GET", f"/dama-admin/main/getEtlProcessFinalEvent?etlContextId={task}", None),
        ("GET", "/dama-admin/main/etl/new-context-id", None),
    ]
    before = await house.event_count()
    await asyncio.to_thread(postgres.leave)
    for method, path, body in requests:
        async with house.ask(method, path, **({} if body is None else {"json": body})) as response:
            await refusal(response, 503, "unavailable")
            assert int(response.headers["Retry-After"]) >= 1
    async with house.get("/tasks", headers={"Accept": "text/event-stream"}) as response:
        assert response.status == 503
    async with house.get("/events", headers={"Accept": "text/event-stream"}) as response:
        assert response.status == 503
    async with house.get("/readyz") as response:
        document = await refusal(response, 503, "not-ready")
        assert (document["detail"], document["pg_envs"]["main"]["answers"]) == ("pg_env main does not answer", False)
        assert int(response.headers["Retry-After"]) >= 1
    async with house.get("/metrics") as response:
        assert 'damad_pg_env_up{pg_env="main"} 0.0' in await response.text()
    async with house.get("/healthz") as response:
        assert response.status == 200
    async with house.post("/tasks", {"worker": "missing.py"}) as response:
        await refusal(response, 422, "invalid-worker")

    await asyncio.to_thread(postgres.join)
    await _until(house, lambda: _is_there(house, task))
    assert await house.event_count() == before


async def test_a_stream_outlasts_an_outage_and_skips_nothing(house: House, postgres: EmbeddedPostgres) -> None:
    context = await house.new_context()
    async with (
        streaming(house, f"/contexts/{context}/events") as stream,
        streaming(house, f"/contexts/{context}/events?tree=1") as tree,
        streaming(house, "/events") as feed,
    ):
        for reader in (stream, tree, feed):
            assert await reader.types(1) == [":INITIAL"]
        await asyncio.to_thread(postgres.leave)
        await asyncio.to_thread(postgres.join)
        await _until(house, lambda: _is_there(house, context))
        await house.append(context, ":A")
        for reader in (stream, tree, feed):
            assert await reader.types(1) == [":A"]


@pytest.mark.parametrize("path", ["/contexts/{}", "/contexts/{}/tree", "/tasks"])
async def test_a_fault_of_ours_is_a_problem_too_and_tells_no_secrets(
    house: House, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    task = await house.new_task()
    async with house.database.connection() as connection:
        await connection.execute("ALTER VIEW data_manager.context_states RENAME COLUMN finished_at TO its_end")
    async with house.get(path.format(task)) as response:
        document = await refusal(response, 500, "internal")
    assert document["detail"] == "damad failed; its log says why"
    assert "finished_at" not in str(document)
    assert "KeyError: 'finished_at'" in caplog.text
    async with house.get("/healthz") as response:
        assert response.status == 200


async def test_a_context_that_somebody_holds_is_503_busy(house: House) -> None:
    context = await house.new_context()
    async with house.store.transaction() as connection:
        await connection.execute("SELECT FROM data_manager.etl_contexts FOR UPDATE")
        async with house.post(f"/contexts/{context}/events", {"type": ":A"}) as response:
            await refusal(response, 503, "busy")
            assert response.headers["Retry-After"]
    async with house.post(f"/contexts/{context}/events", {"type": ":A"}) as response:
        assert response.status == 201


async def _is_there(house: House, id_: int) -> bool:
    async with house.get(f"/contexts/{id_}") as response:
        assert response.status in (200, 503)
        return response.status == 200


async def _until(house: House, holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SOON):
        while not await holds():
            pass
