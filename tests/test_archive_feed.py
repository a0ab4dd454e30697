"""A feed over all contexts and what leaves the log: that is shown no more, and who read the newest event goes on."""

from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import http_support
import pytest
from http_support import House, refusal
from test_archive import tree
from test_feed import rest
from test_http_feed import rest as everything_over_http

from damad import archive
from damad.context import EtlContext
from damad.errors import CursorGone
from damad.eventstore.feed import Feed
from damad.eventstore.removal import Which

house = http_support.house

Plain: TypeAlias = "asyncpg.Connection[Any]"


async def archived(to: Path) -> Path:
    """All that may go, in a file."""
    return Path(str((await archive.archive(Which(), to=to)).file))


@pytest.mark.parametrize("limit", [1, 3, 1000])
async def test_who_has_read_to_the_end_goes_on_after_a_removal(
    ctx: EtlContext, plain: Plain, tmp_path: Path, limit: int
) -> None:
    feed = Feed(ctx.store.database)
    await tree(plain)
    newest = await tree(plain)
    _, cursor = await rest(feed, None, limit)
    await archived(tmp_path)
    assert (await rest(feed, cursor, limit))[0] == []
    later = await tree(plain, done=False)
    shown, cursor = await rest(feed, cursor, limit)
    assert {event.etl_context_id for event in shown} == {*later}
    await archived(tmp_path)
    assert (await rest(feed, cursor, limit))[0] == []
    assert await plain.fetch("SELECT FROM data_manager.etl_contexts WHERE etl_context_id = ANY ($1)", newest) == []


async def test_who_is_amid_the_log_goes_on_without_what_is_removed_and_without_a_repetition(
    ctx: EtlContext, plain: Plain, tmp_path: Path
) -> None:
    feed = Feed(ctx.store.database)
    first, opened, last = await tree(plain), await tree(plain, done=False), await tree(plain)
    page = await feed.page(limit=2)  # of the tree that is removed
    assert {event.etl_context_id for event in page.events} <= {*first}
    await archived(tmp_path)
    shown, cursor = await rest(feed, page.cursor, 2)
    assert {event.etl_context_id for event in shown} == {*opened, *last}
    assert len({event.event_id for event in shown}) == len(shown)
    assert (await rest(feed, cursor))[0] == []
    assert {event.etl_context_id for event in (await rest(feed, None))[0]} == {*opened, *last}


async def test_a_cursor_whose_last_event_was_removed_is_gone_and_says_so(
    ctx: EtlContext, plain: Plain, tmp_path: Path
) -> None:
    feed = Feed(ctx.store.database)
    await tree(plain)
    _, cursor = await rest(feed, None)
    await tree(plain)
    await archived(tmp_path)
    with pytest.raises(CursorGone, match="begin again"):
        await feed.page(cursor)


async def test_what_is_put_back_is_shown_again_under_its_old_ids(ctx: EtlContext, plain: Plain, tmp_path: Path) -> None:
    feed = Feed(ctx.store.database)
    removed = await tree(plain)
    await tree(plain)
    before, cursor = await rest(feed, None)
    file = await archived(tmp_path)
    assert (await rest(feed, cursor))[0] == []
    await archive.import_(file)
    shown, cursor = await rest(feed, cursor)
    assert shown == [event for event in before if event.etl_context_id in removed]
    assert (await rest(feed, cursor))[0] == []


@pytest.mark.parametrize("done", [True, False])
async def test_the_tree_of_the_newest_event_stays_until_another_one_is_newer(
    ctx: EtlContext, plain: Plain, tmp_path: Path, done: bool
) -> None:
    """By whatever way it is asked to go: a cursor knows the log again by that event."""
    newest = await tree(plain)
    found = await archive.archive(Which(), to=tmp_path)
    assert (found.contexts, found.removed) == (0, 0)
    assert await plain.fetch("SELECT data_manager.remove_contexts($1, '{2,2}')", list(newest)) == []
    await tree(plain, done=done)
    assert (await archive.archive(Which(), to=tmp_path)).removed == 2


async def test_over_http_a_cursor_whose_last_event_was_removed_is_410(house: House) -> None:
    id_ = await house.new_context()
    await house.append(id_, ":FINAL")
    _, cursor = await everything_over_http(house)
    await house.new_context()
    async with house.database.connection() as connection:
        assert await connection.fetch("SELECT data_manager.remove_contexts($1, '{2}')", [id_])
    async with house.get(f"/events?cursor={cursor}") as response:
        body = await refusal(response, 410, "cursor-gone")
    assert "archived" in body["detail"]
