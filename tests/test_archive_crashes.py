"""damad archive dies between two durable effects, or fails: nothing is lost or half there, and the next one goes on."""

import fcntl
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from daemon_support import Done, Site, site_of, until

FEW, MANY, EVENTS = 3, 501, 5
"""Trees of two contexts each: of many more than one transaction removes them; and the events in each."""
MAKE = """
WITH roots AS (
  INSERT INTO data_manager.etl_contexts (parent_context_id) SELECT NULL FROM generate_series(1, $1::int)
    RETURNING etl_context_id AS id
), children AS (
  INSERT INTO data_manager.etl_contexts (parent_context_id) SELECT id FROM roots RETURNING etl_context_id AS id
), made AS (
  SELECT id, ARRAY[':INITIAL', ':FINAL'] AS types FROM children
  UNION ALL SELECT id, ARRAY[':INITIAL', ':A', ':FINAL'] FROM roots
)
SELECT id, types FROM made
"""
SAY = """
INSERT INTO data_manager.event_store (etl_context_id, type, payload)
  SELECT id, type, to_jsonb(id) FROM unnest($1::bigint[], $2::text[]) AS given (id, type)
"""
ADD = "INSERT INTO data_manager.etl_contexts (parent_context_id) VALUES ($1) RETURNING etl_context_id"
ALL = "SELECT to_jsonb(e) - 'txid' AS event FROM data_manager.event_store e ORDER BY e.event_id"
KILL, RAISE = "kill", "raise"


@pytest_asyncio.fixture
async def site(template: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with site_of(tmp_path, template) as site:
        yield site
        await site.verified()


async def filled(site: Site, trees: int = FEW) -> list[dict[str, Any]]:
    """The events of a log with ended trees and with a task that stays: its event is the newest."""
    async with site.store().database.connection() as connection:
        rows = await connection.fetch(MAKE, trees)
        for step in range(3):
            said = [(row["id"], row["types"][step]) for row in rows if len(row["types"]) > step]
            await connection.execute(SAY, [id_ for id_, _ in said], [type_ for _, type_ in said])
    await site.queue("hold.py")
    return await events(site)


async def events(site: Site) -> list[dict[str, Any]]:
    async with site.store().database.connection() as connection:
        return [row["event"] for row in await connection.fetch(ALL)]


def files(site: Site) -> list[Path]:
    return sorted((site.state_dir / "archive").glob("*"))


def archived(*archives: Path) -> list[dict[str, Any]]:
    """The events in archives, each of which is a whole one."""
    lines = [json.loads(line) for file in archives for line in gzip.decompress(file.read_bytes()).splitlines()]
    return [line["event"] for line in lines if "event" in line]


def trees(found: list[dict[str, Any]]) -> dict[int, int]:
    """How many events each context has."""
    counted: dict[int, int] = {}
    for event in found:
        counted[event["etl_context_id"]] = counted.get(event["etl_context_id"], 0) + 1
    return counted


async def archive(site: Site, *words: str, **environment: str) -> Done:
    """`damad archive`, which may take its time: there are many."""
    return await site.damad("archive", *words, patience=300.0, **environment)


async def struck(site: Site, name: str, action: str, *words: str) -> None:
    done: Done = await archive(site, *words, DAMAD_FAILPOINT=f"{name}:{action}")
    assert done.code == (-9 if action == KILL else 1), done
    assert action == KILL or f"Failpoint: {name}" in done.err


@pytest.mark.parametrize("action", [KILL, RAISE])
@pytest.mark.parametrize("name", ["archive.writing", "archive.written", "archive.removed"])
async def test_archiving_that_stops_amid_loses_nothing_and_the_next_one_goes_on(
    site: Site, name: str, action: str
) -> None:
    count = MANY if name == "archive.removed" else FEW
    before = await filled(site, count)
    await struck(site, name, action)
    left, whole = await events(site), [file for file in files(site) if file.suffix == ".gz"]
    assert len(whole) == (0 if name == "archive.writing" else 1)
    assert len(files(site)) == len(whole) + ((name, action) == ("archive.writing", KILL))
    there = {event["event_id"] for event in [*left, *archived(*whole)]}
    assert there == {event["event_id"] for event in before}
    assert trees(left).items() <= trees(before).items(), "of no context are some of its events gone"
    assert (len(left) < len(before)) is (name == "archive.removed")
    await site.verified()

    done = await archive(site, "--json")
    assert (done.code, done.json["removed"]) == (0, 2 * count - (len(trees(before)) - len(trees(left))))
    assert len(await events(site)) == 1
    assert {file.suffix for file in files(site)} == {".gz"}
    for file in files(site):
        assert (await archive(site, "--import", str(file))).code == 0
    again = await events(site)
    assert again == before


@pytest.mark.parametrize("action", [KILL, RAISE])
async def test_putting_back_that_stops_amid_puts_back_nothing_and_the_next_one_everything(
    site: Site, action: str
) -> None:
    before = await filled(site)
    assert (await archive(site)).code == 0
    left, (file,) = await events(site), files(site)
    await struck(site, "archive.restored", action, "--import", str(file))
    assert await events(site) == left
    await site.verified()
    assert (await archive(site, "--import", str(file))).code == 0
    assert await events(site) == before


async def test_two_that_archive_at_the_same_time_remove_each_tree_once(site: Site) -> None:
    before = await filled(site)
    async with site.command("archive", "--json") as one, site.command("archive", "--json") as other:
        answers = [json.loads((await each.communicate())[0]) for each in (one, other)]
    assert sum(answer["removed"] for answer in answers) == 2 * FEW
    assert len(await events(site)) == 1
    for answer in answers:
        if answer["file"] is not None:
            assert (await archive(site, "--import", answer["file"])).code == 0
    assert await events(site) == before


async def test_what_another_writes_just_now_is_not_taken_for_torn(site: Site) -> None:
    """And what is no archive stays, whatever it is called."""
    await filled(site)
    folder = site.state_dir / "archive"
    folder.mkdir()
    (folder / "download.part").write_text("mine")
    with (folder / "local-20260101T000000Z-0badcafe.jsonl.part").open("wb") as draft:
        fcntl.flock(draft, fcntl.LOCK_EX)
        assert (await archive(site, "--limit", "1")).code == 0
        assert len(files(site)) == 3
    assert (await archive(site, "--limit", "1")).code == 0
    assert sorted(file.name for file in files(site) if file.suffix == ".part") == ["download.part"]


async def test_a_tree_that_changes_after_it_was_archived_stays(site: Site) -> None:
    """Somebody adds a child that has ended, and commits in the moment between the file and the removal."""
    await filled(site)
    async with site.store().database.connection() as connection, site.command("archive", "--json") as archive:
        async with connection.transaction():
            root = await connection.fetchval("SELECT min(etl_context_id) FROM data_manager.etl_contexts")
            child = await connection.fetchval(ADD, root)
            await connection.execute(SAY, [child, child], [":INITIAL", ":FINAL"])
            await connection.execute("SELECT data_manager.queue_task('hold.py')")
            await until(lambda: any(file.suffix == ".gz" for file in files(site)))
        done = json.loads((await archive.communicate())[0])
    assert (done["contexts"], done["removed"]) == (2 * FEW, 2 * FEW - 2)
    assert len(await events(site)) == 2 + EVENTS + 2
