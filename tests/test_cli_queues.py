"""damad queues: list, pause, resume, set; with no daemon."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from daemon_support import Site, site_of


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with site_of(tmp_path_factory.mktemp("queues"), template, DAMAD_QUEUE_HEAVY_CONCURRENCY="7") as site:
        yield site


async def damad(site: Site, *words: str) -> Any:
    done = await site.damad(*words, "--json")
    assert (done.code, done.err) == (0, "")
    return done.json


async def test_what_is_set_is_shown_over_what_is_configured_and_can_be_unset(site: Site) -> None:
    (heavy,) = [queue for queue in await damad(site, "queues") if queue["name"] == "heavy"]
    assert heavy["concurrency"] == 7
    set_ = await damad(
        site, "queues", "set", "heavy", "--concurrency", "3", "--rate", "100/1m", "--shared", "--retry-limit", "0",
        "--key-rate", "5/1h", "--aging", "10m",
    )  # fmt: skip
    assert (set_["concurrency"], set_["rate"], set_["shared"], set_["key_rate"]) == (3, "100/1m", True, "5/1h")
    listed = (await site.damad("queues", COLUMNS="200")).out.splitlines()
    (line,) = [line for line in listed if line.startswith("heavy")]
    assert "100/1m, 5/1h a key" in line
    assert set_["aging"] == 600.0 and "aging 600" in line
    assert set_["settings"] == {"retry_limit": 0}
    unset = await damad(site, "queues", "set", "heavy", "--unset", "concurrency,retry-limit,aging", "--no-shared")
    assert (unset["concurrency"], unset["settings"], unset["shared"], unset["rate"]) == (7, {}, False, "100/1m")
    assert unset["aging"] is None


async def test_a_paused_queue_is_said_to_be_and_so_are_its_tasks(site: Site) -> None:
    assert (await damad(site, "queues", "pause", "still"))["paused"] is True
    id_ = await site.queue("hold.py", queue="still")
    shown = await site.damad("show", str(id_))
    assert "queue 'still' is paused; resume it with `damad queues resume still`" in " ".join(shown.out.split())
    listed = await site.damad("queues")
    assert [line.split()[:3] for line in listed.out.splitlines() if line.startswith("still")] == [
        ["still", "paused", "1"]
    ]
    assert (await damad(site, "queues", "resume", "still"))["paused"] is False


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["set", "heavy"], "there is nothing to set"),
        (["set", "heavy", "--rate", "fast"], "rate"),
        (["set", "heavy", "--concurrency", "many"], "concurrency"),
        (["set", "heavy", "--unset", "colour"], "there is no setting 'colour' of a queue"),
        (["set", "heavy", "--idempotency-key", "k"], "--idempotency-key is of one task"),
        (["pause", "Heavy"], "is no name"),
        (["pause"], "name"),
    ],
)
async def test_what_does_not_fit_is_refused_with_one_line(site: Site, words: list[str], reason: str) -> None:
    done = await site.damad("queues", *words)
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("damad: ")
    assert reason.lower() in line.lower()
