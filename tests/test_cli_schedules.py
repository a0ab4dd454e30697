"""damad schedules: every command of it against the database alone, and one line for what is refused."""

from collections.abc import AsyncIterator
from datetime import datetime

import pytest
import pytest_asyncio
from daemon_support import Site, site_of
from test_cli_refusals import refused


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """No daemon is needed for any of it."""
    async with site_of(tmp_path_factory.mktemp("schedules"), template) as site:
        site.worker("def main(event):\n    return event['payload']\n", "ok.py")
        yield site
        await site.quiet()


async def test_a_schedule_is_added_listed_changed_and_removed(site: Site) -> None:
    done = await site.damad(
        "schedules", "add", "nightly", "30 2 * * *", "ok.py", "--zone", "Europe/Berlin", "--payload", '{"a": 1}',
        "--overlap", "buffer_one", "--missed", "all", "--missed-within", "2h", "--jitter", "1m", "--retry-limit", "0",
        "--json",
    )  # fmt: skip
    made = done.json
    assert done.code == 0, done
    assert (made["overlap"], made["missed"], made["missed_within"], made["jitter"]) == ("buffer_one", "all", 7200, 60)
    assert (made["payload"], made["retry_limit"], made["paused"]) == ({"a": 1}, 0, False)
    assert [made["next_tick"], 5] == [made["next_runs"][0], len(made["next_runs"])]
    listed = (await site.damad("schedules", "--json")).json
    assert listed == [{name: value for name, value in made.items() if name != "next_runs"}]
    table = await site.damad("schedules")
    assert "nightly" in table.out and "Europe/Berlin" in table.out
    paused = await site.damad("schedules", "pause", "nightly")
    assert (paused.code, paused.out, paused.err) == (0, "", "schedule nightly: paused\n")
    assert "paused" in (await site.damad("schedules")).out
    resumed = await site.damad("schedules", "resume", "nightly", "--json")
    assert resumed.json["paused"] is False
    removed = await site.damad("schedules", "remove", "nightly")
    assert (removed.code, removed.err) == (0, "schedule nightly is removed\n")
    assert (await site.damad("schedules")).out == "no schedules\n"


async def test_next_prints_the_next_runs_in_the_zone(site: Site) -> None:
    await site.damad("schedules", "add", "monthly", "@monthly", "ok.py", "--zone", "Asia/Kolkata")
    lines = (await site.damad("schedules", "next", "monthly", "-n", "3")).out.splitlines()
    runs = [datetime.fromisoformat(line) for line in lines]
    assert [(run.minute, run.utcoffset().total_seconds()) for run in runs] == [(0, 19800.0)] * 3  # type: ignore[union-attr]
    as_json = (await site.damad("schedules", "next", "monthly", "--json")).json
    assert [datetime.fromisoformat(run) for run in as_json[:3]] == runs
    assert len(as_json) == 5
    await site.damad("schedules", "remove", "monthly")


async def test_trigger_and_backfill_print_the_ids_of_their_tasks(site: Site) -> None:
    await site.damad("schedules", "add", "daily", "@daily", "ok.py", "--paused", "--payload", "-7")
    triggered = await site.damad("schedules", "trigger", "daily")
    state = (await site.damad("show", triggered.out.strip(), "--json")).json
    assert (state["state"], state["schedule"], state["events"][0]["payload"]) == ("queued", "daily", -7)
    span = ("--from", "2026-01-02T00:00:00Z", "--until", "2026-01-03T00:00:00Z")
    ids = (await site.damad("schedules", "backfill", "daily", *span)).out.split()
    assert len(ids) == 2
    assert (await site.damad("schedules", "backfill", "daily", *span, "--json")).json == []
    await site.damad("schedules", "remove", "daily")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("add", "s", "61 * * * *", "ok.py"), "its minute"),
        (("add", "s", "@daily", "ok.py", "--zone", "Mars"), "no IANA time zone"),
        (("add", "s", "@daily", "gone.py"), "gone.py"),
        (("add", "a b", "@daily", "ok.py"), "no name"),
        (("add", "s", "@daily", "ok.py", "--overlap", "often"), "overlap is one of skip"),
        (("add", "s", "@daily", "ok.py", "--missed", "two"), "missed is one of skip"),
        (("add", "s", "@daily", "ok.py", "--jitter", "soon"), "jitter"),
        (("add", "s", "@daily", "ok.py", "--missed-within", "-1"), "missed"),
        (("add", "s", "@daily", "ok.py", "--start-after", "5s"), "start_after"),
        (("add", "s", "@daily", "ok.py", "--idempotency-key", "k"), "idempotency_key"),
        (("add", "s", "@daily", "ok.py", "--parent-context-id", "1"), "parent"),
        (("add", "s", "@daily", "ok.py", "--source-id", "77"), "source"),
        (("add", "s", "@daily", "ok.py", "--payload", "{"), "payload"),
        (("add", "s", "@daily", "ok.py", "--queue", "No"), "queue"),
        (("add", "s", "@daily"), "WORKER"),
        (("remove", "nobody"), "no schedule 'nobody'"),
        (("pause", "nobody"), "no schedule 'nobody'"),
        (("resume", "nobody"), "no schedule 'nobody'"),
        (("trigger", "nobody"), "no schedule 'nobody'"),
        (("next", "nobody"), "no schedule 'nobody'"),
        (("backfill", "nobody", "--from", "2026-01-01T00:00:00Z", "--until", "2026-01-02T00:00:00Z"), "nobody"),
        (("backfill", "s", "--from", "monday", "--until", "2026-01-02T00:00:00Z"), "RFC 3339"),
        (("backfill", "s", "--from", "2026-01-01T00:00:00", "--until", "2026-01-02T00:00:00Z"), "RFC 3339"),
        (("sing",), "sing"),
    ],
)
async def test_what_is_refused_is_one_line_and_nothing_happened(site: Site, words: tuple[str, ...], says: str) -> None:
    await refused(site, "schedules", *words, says=(says,))
    assert (await site.damad("schedules")).out == "no schedules\n"


async def test_a_name_that_is_taken_and_a_number_of_runs_that_is_none_are_refused(site: Site) -> None:
    await site.damad("schedules", "add", "taken", "@daily", "ok.py")
    await refused(site, "schedules", "add", "taken", "@daily", "ok.py", says=("already",))
    await refused(site, "schedules", "next", "taken", "-n", "5000", says=("5000",))
    later = ("--from", "2026-01-01T00:00:00Z", "--until", "2999-01-01T00:00:00Z")
    await refused(site, "schedules", "backfill", "taken", *later, says=("over",))
    await site.damad("schedules", "remove", "taken")


async def test_one_that_plain_sql_wrote_wrong_is_listed_with_what_is_wrong(site: Site) -> None:
    async with site.store().database.connection() as connection:
        await connection.execute(
            "INSERT INTO data_manager.dama_schedules (name, cron, worker) VALUES ('wrong', 'x', 'ok.py')"
        )
    listed = await site.damad("schedules")
    assert listed.code == 0 and "cron 'x'" in listed.out
    await refused(site, "schedules", "next", "wrong")
    assert (await site.damad("schedules", "remove", "wrong")).code == 0
