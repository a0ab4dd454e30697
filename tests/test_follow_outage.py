"""Who follows events is not ended by an outage of Postgres: it waits, and then shows each event once."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from daemon_support import SOON, Site, site_of
from test_daemon_outage import Postgres, postgres

from damad import events
from damad.eventstore.store import Append
from damad.model.event import Event

__all__ = ["postgres"]


@pytest_asyncio.fixture
async def site(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with site_of(tmp_path_factory.mktemp("following"), postgres.dsn) as site:
        yield site
        await postgres.start()


async def says(site: Site, id_: int, *types: str) -> None:
    appends = [Append(etl_context_id=id_, event=Event(type=type_)) for type_ in types]
    await events.persist(lambda: site.store().append(appends))


async def lines(command: asyncio.subprocess.Process, count: int) -> list[Any]:
    assert command.stdout is not None
    return [json.loads(await command.stdout.readline()) for _ in range(count)]


@pytest.mark.parametrize("of", ["one context", "all contexts"])
async def test_events_follow_goes_on_after_an_outage_and_shows_each_event_once(
    site: Site, postgres: Postgres, of: str
) -> None:
    id_ = await site.store().create_context()
    await says(site, id_, ":INITIAL", ":BEFORE")
    named = [str(id_)] if of == "one context" else []
    async with site.command("events", *named, "--follow", "--json") as command, asyncio.timeout(3 * SOON):
        assert command.stderr is not None
        assert [event["type"] for event in await lines(command, 2)] == [":INITIAL", ":BEFORE"]
        for number in (1, 2):
            await postgres.crash()
            assert b"Postgres is away" in await command.stderr.readline()
            await postgres.start()
            await says(site, id_, f":AFTER-{number}")
            assert [event["type"] for event in await lines(command, 1)] == [f":AFTER-{number}"]
        await says(site, id_, ":FINAL")
        assert [event["version"] for event in await lines(command, 1)] == [5]
        if named:
            assert await command.wait() == 0
            assert await command.stderr.read() == b""


async def test_a_tree_is_followed_through_an_outage(site: Site, postgres: Postgres) -> None:
    id_ = await site.store().create_context()
    await says(site, id_, ":INITIAL")
    with site.here():
        async with asyncio.timeout(SOON):
            following = events.follow_tree(id_)
            assert (await anext(following)).version == 1
            upcoming = asyncio.create_task(anext(following))
            await postgres.crash()
            await postgres.start()
            await says(site, id_, ":AFTER")
            assert (await upcoming).version == 2
            await following.aclose()


async def test_who_begins_to_follow_while_postgres_is_away_is_told_so(site: Site, postgres: Postgres) -> None:
    await postgres.crash()
    done = await site.damad("events", "--follow")
    assert (done.code, done.out) == (2, "")
    assert "Postgres is away" in done.err
