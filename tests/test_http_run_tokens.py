"""The token of a run: for an append to its own context, under its own fence, and for nothing else."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import aiohttp
import http_support
import pytest_asyncio
from daemon_support import PG_ENV, daemon_on, site_of
from http_support import TOKEN, House, refusal

from damad import tokens
from damad.tokens import Run

house = http_support.house


@pytest_asyncio.fixture(loop_scope="session")
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that says only what a test has it say."""
    async with aiohttp.ClientSession() as found:
        yield found


def of(run: Run, key: str = TOKEN) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens.sealed(run, key)}"}


async def test_a_run_appends_to_its_own_context_and_is_named_as_that(
    house: House, client: aiohttp.ClientSession
) -> None:
    id_ = await house.new_task()
    run = Run(http_support.PG_ENV, id_, await house.start(id_))
    async with client.post(house.url(f"/contexts/{id_}/events"), json={"type": ":A"}, headers=of(run)) as response:
        assert response.status == 201, await response.text()
        assert (await response.json())["meta"] == {"__dama_actor__": f"context:{id_}"}


async def test_a_run_may_do_nothing_else(house: House, client: aiohttp.ClientSession) -> None:
    id_, other = await house.new_task(), await house.new_task()
    run = Run(http_support.PG_ENV, id_, await house.start(id_))
    before = await house.event_count()
    for method, path in (
        ("POST", f"/contexts/{other}/events"),
        ("POST", f"/contexts/0{id_}/events"),
        ("POST", f"/v1/other/contexts/{id_}/events"),
        ("GET", f"/contexts/{id_}/events"),
        ("GET", f"/contexts/{id_}"),
        ("POST", f"/contexts/{id_}/cancel"),
        ("POST", "/tasks"),
        ("GET", "/tasks"),
        ("GET", "/metrics"),
        ("GET", "/nowhere"),
    ):
        async with client.request(method, house.url(path), json={"type": ":A"}, headers=of(run)) as response:
            await refusal(response, 403, "forbidden")
    assert await house.event_count() == before


async def test_its_token_is_of_no_use_once_the_attempt_has_ended(house: House, client: aiohttp.ClientSession) -> None:
    id_ = await house.new_task(retry_limit=0)
    run = Run(http_support.PG_ENV, id_, await house.start(id_))
    event = {"type": ":A", "event_uuid": str(uuid4())}
    url = house.url(f"/contexts/{id_}/events")
    async with client.post(url, json=event, headers=of(run)) as response:
        assert response.status == 201
    await house.fail(id_, run.fence)
    async with client.post(url, json=event, headers=of(run)) as response:  # an answer that was lost is given again
        assert response.status == 200
    async with client.post(url, json={"type": ":B"}, headers=of(run)) as response:
        assert response.status == 409
    async with house.post(f"/contexts/{id_}/retry") as response:
        assert response.status == 202
    for state in ("queued", "running"):
        async with house.get(f"/contexts/{id_}") as response:
            assert (await response.json())["state"] == state
        async with client.post(url, json={"type": ":B"}, headers=of(run)) as response:
            await refusal(response, 409, "stale-fence")
        if state == "queued":
            await house.start(id_, attempt=2)


async def test_nobody_makes_one_without_the_first_token(house: House, client: aiohttp.ClientSession) -> None:
    id_ = await house.new_task()
    run = Run(http_support.PG_ENV, id_, await house.start(id_))
    url = house.url(f"/contexts/{id_}/events")
    async with client.post(url, json={"type": ":A"}, headers=of(run, "another")) as response:
        await refusal(response, 401, "unauthorized")


async def test_a_worker_gives_its_token_to_whoever_is_to_append_for_it(template: str, tmp_path: Path) -> None:
    async with site_of(tmp_path, template) as site, daemon_on(site) as daemon, aiohttp.ClientSession() as client:
        with site.gate() as gate:
            source = f"""
                import gate
                from damad import events, tokens

                def main(initial_event):
                    events.dispatch_sync({{"type": ":TOKEN", "payload": tokens.mine()}})
                    gate.wait({str(gate.path)!r})
                    return {{}}
            """
            id_ = await site.queue(site.worker(source))
            headers = {"Authorization": f"Bearer {(await site.event(id_, ':TOKEN')).payload}"}
            url = f"{daemon.url}/v1/{PG_ENV}/contexts/{id_}/events"
            async with client.post(url, json={"type": ":BY_ANOTHER"}, headers=headers) as response:
                assert response.status == 201, await response.text()
        assert (await site.ended(id_)).state == "done"
        async with client.post(url, json={"type": ":LATE"}, headers=headers) as response:
            assert response.status == 409
        assert "LATE" not in str(await site.types(id_))
