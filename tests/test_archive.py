"""What has ended leaves the log for a file, and comes back as it was."""

import gzip
from pathlib import Path
from typing import Any

import asyncpg
import lost_answers
import pytest

from damad import archive
from damad.context import EtlContext
from damad.errors import Conflict, InvalidInput
from damad.eventstore.removal import Which
from damad.eventstore.verify import verify

ALL = "SELECT to_jsonb(e) - 'txid' FROM data_manager.event_store e ORDER BY event_id"


async def tree(plain: "asyncpg.Connection[Any]", *, done: bool = True) -> tuple[int, int]:
    """A root that is done, with a child that is done too, or open."""
    ids: list[int] = []
    for _ in range(2):
        id_ = await plain.fetchval(
            "INSERT INTO data_manager.etl_contexts (parent_context_id) VALUES ($1) RETURNING etl_context_id",
            ids[0] if ids else None,
        )
        ids.append(id_)
        await say(plain, id_, "x:INITIAL")
    if done:
        await say(plain, ids[1], "x:FINAL")
    await say(plain, ids[0], "x:FINAL")
    return ids[0], ids[1]


async def say(plain: "asyncpg.Connection[Any]", id_: int, type_: str) -> None:
    await plain.execute(
        "INSERT INTO data_manager.event_store (etl_context_id, type, payload) VALUES ($1, $2, 'null')", id_, type_
    )


async def test_an_ended_tree_goes_and_comes_back_as_it_was_and_an_open_one_stays(
    ctx: EtlContext, plain: "asyncpg.Connection[Any]", tmp_path: Path
) -> None:
    await tree(plain)
    opened = await tree(plain, done=False)
    before = await plain.fetch(ALL)
    done = await archive.archive(Which(), to=tmp_path)
    assert (done.contexts, done.events, done.removed) == (2, 4, 2)
    left = await plain.fetch("SELECT etl_context_id FROM data_manager.etl_contexts ORDER BY 1")
    assert tuple(row[0] for row in left) == opened
    for restored in (2, 0):
        back = await archive.import_(Path(str(done.file)))
        assert back.restored_contexts == restored
        assert await plain.fetch(ALL) == before
        assert (await verify(ctx.store.database)).mismatches == []


async def test_an_archive_that_was_changed_is_refused(
    ctx: EtlContext, plain: "asyncpg.Connection[Any]", tmp_path: Path
) -> None:
    await tree(plain)
    await tree(plain, done=False)
    file = Path(str((await archive.archive(Which(), to=tmp_path)).file))
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()).replace(b"x:FINAL", b"y:FINAL")))
    with pytest.raises(InvalidInput, match="checksum"):
        await archive.import_(file)


async def test_what_was_given_out_again_meanwhile_is_not_overwritten(
    ctx: EtlContext, plain: "asyncpg.Connection[Any]", tmp_path: Path
) -> None:
    root, _ = await tree(plain)
    await tree(plain, done=False)
    file = Path(str((await archive.archive(Which(), to=tmp_path)).file))
    await plain.execute("INSERT INTO data_manager.etl_contexts (etl_context_id) VALUES ($1)", root)
    with pytest.raises(Conflict, match="taken"):
        await archive.import_(file)


async def test_the_function_leaves_an_open_tree_alone_whatever_it_is_given(plain: "asyncpg.Connection[Any]") -> None:
    ids = await tree(plain, done=False)
    await tree(plain, done=False)
    assert await plain.fetch("SELECT data_manager.remove_contexts($1, '{2,1}')", list(ids)) == []


async def test_nobody_but_the_owner_removes(plain: "asyncpg.Connection[Any]") -> None:
    await tree(plain)
    await plain.execute(
        """
        DO $$ BEGIN CREATE ROLE writer_of_archives; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
        GRANT USAGE ON SCHEMA data_manager TO writer_of_archives;
        GRANT ALL ON ALL TABLES IN SCHEMA data_manager TO writer_of_archives;
        SET ROLE writer_of_archives;
        SET damad.removes = 'yes';
        """
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await plain.fetch("SELECT data_manager.remove_contexts('{1}', '{2}')")
    with pytest.raises(asyncpg.PostgresError) as refused:
        await plain.execute("DELETE FROM data_manager.event_store")
    assert refused.value.sqlstate == "DA006"


async def test_a_task_comes_back_with_its_key_unless_another_has_it_by_then(
    ctx: EtlContext, plain: "asyncpg.Connection[Any]", tmp_path: Path
) -> None:
    first = await queued(plain)
    await say(plain, first, "x:FINAL")
    await tree(plain, done=False)
    file = Path(str((await archive.archive(Which(states=["done"], queue="default"), to=tmp_path)).file))
    second = await queued(plain)
    assert second != first
    with pytest.raises(Conflict, match="idempotency_key"):
        await archive.import_(file)
    await say(plain, second, "x:FINAL")
    await tree(plain, done=False)
    assert (await archive.archive(Which(queue="default"), to=tmp_path)).removed == 1
    assert (await archive.import_(file)).restored_contexts == 1
    assert (await verify(ctx.store.database)).mismatches == []
    assert await queued(plain) == first


async def queued(plain: "asyncpg.Connection[Any]") -> int:
    """The id of the task that has the key k."""
    row = await plain.fetchrow(
        """SELECT * FROM data_manager.queue_task('ok.py', settings => '{"idempotency_key": "k"}')"""
    )
    assert row is not None
    return int(row[0])


async def test_what_was_removed_is_counted_though_no_answer_says_so(
    ctx: EtlContext, plain: "asyncpg.Connection[Any]", tmp_path: Path
) -> None:
    await tree(plain)
    await tree(plain, done=False)
    with lost_answers.every_one():
        done = await archive.archive(Which(), to=tmp_path)
    assert (done.contexts, done.removed) == (2, 2)
