"""damad archive: what has ended goes into a file and comes back, by the command."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from daemon_support import Site, site_of


@pytest_asyncio.fixture
async def site(template: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with site_of(tmp_path, template) as site:
        yield site


async def damad(site: Site, *words: str) -> Any:
    done = await site.damad(*words, "--json")
    assert (done.code, done.err) == (0, "")
    return done.json


async def ended(site: Site, **settings: Any) -> list[int]:
    """Three tasks that were cancelled."""
    ids = [await site.queue("hold.py", **settings) for _ in range(3)]
    for id_ in ids:
        await site.cancel(id_)
    return ids


async def test_what_has_ended_goes_into_a_file_and_comes_back(site: Site) -> None:
    ids, kept = await ended(site), await site.queue("hold.py")
    assert await damad(site, "archive", "--dry-run") == {"contexts": 3, "events": 9, "file": None, "removed": 0}
    done = await damad(site, "archive")
    assert (done["contexts"], done["removed"]) == (3, 3)
    assert Path(done["file"]).parent == site.state_dir / "archive"
    assert [task["etl_context_id"] for task in await damad(site, "tasks")] == [kept]
    await site.verified()
    back = await damad(site, "archive", "--import", done["file"])
    assert (back["restored_contexts"], back["restored_events"]) == (3, 9)
    assert {task["etl_context_id"] for task in await damad(site, "tasks")} == {*ids, kept}
    await site.verified()


async def test_what_does_not_match_stays(site: Site) -> None:
    ids = await ended(site, queue="heavy")
    await site.queue("hold.py")  # the tree of the newest event stays, whatever it is
    for filter_ in (["--queue", "default"], ["--state", "done,failed"], ["--older-than", "1d"]):
        assert (await damad(site, "archive", *filter_))["contexts"] == 0
    done = await damad(site, "archive", "--queue", "heavy", "--state", "cancelled", "--limit", "2")
    assert done["removed"] == 2
    assert ids[2] in {task["etl_context_id"] for task in await damad(site, "tasks")}


@pytest.mark.parametrize(
    ("words", "reason"),
    [(["--state", "queued"], "--state is one of done, failed, cancelled"), (["--import", "/dev/null"], "no archive")],
)
async def test_what_does_not_fit_is_refused_with_one_line(site: Site, words: list[str], reason: str) -> None:
    done = await site.damad("archive", *words)
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert reason in line
