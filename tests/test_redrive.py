"""All tasks that match are queued again: by state, queue and error; and what there is to match, by their errors."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
from daemon_support import Site, site_of

from damad import tasks
from damad.eventstore.ended import Ended
from damad.eventstore.store import Append, NewTask
from damad.model.event import SETTINGS_KEY, Event


@pytest_asyncio.fixture
async def site(template: str, tmp_path: Path) -> AsyncIterator[Site]:
    """No daemon is needed to queue them again, and none runs that would have them fail again."""
    async with site_of(tmp_path, template) as site:
        yield site
        await site.verified()


async def failed(site: Site, message: str, *, kind: str = "exception", **settings: str) -> int:
    given = {"worker": "ok.py", **settings}
    initial = Event(type=":INITIAL", meta={SETTINGS_KEY: given}, event_uuid=uuid4())
    (queued,) = await site.store().queue([NewTask(initial=initial)])
    way = [
        ("CLAIMED", {"fence": 1}), ("STARTED", {"attempt": 1}), ("ERROR", {"kind": kind, "message": message}),
        ("FAILED", None),
    ]  # fmt: skip
    await append(site, queued.etl_context_id, *(Event(type=f"dama/task:{name}", payload=said) for name, said in way))
    return queued.etl_context_id


async def append(site: Site, id_: int, *events: Event) -> None:
    await site.store().append([Append(etl_context_id=id_, event=event) for event in events])


async def cancelled(site: Site) -> int:
    id_ = await failed(site, "x")
    await append(site, id_, Event(type="dama/task:REQUEUED"))
    await site.cancel(id_)
    return id_


async def queued_again(site: Site, *ids: int) -> list[int]:
    return [id_ for id_ in ids if (await site.state(id_)).state == "queued"]


async def test_all_that_match_are_queued_again_and_no_others(site: Site) -> None:
    one, other = await failed(site, "no route to 10.0.0.1"), await failed(site, "disk full")
    third, gone = await failed(site, "no route to 10.0.0.2", queue="gtfs"), await cancelled(site)
    everything = (one, other, third, gone)
    done = await site.damad("retry", "--state", "failed", "--error", "no route", "--queue", "gtfs")
    assert (done.code, done.out) == (0, "")
    assert done.err == "1 tasks match\n1 of them are queued again\n"
    assert await queued_again(site, *everything) == [third]
    done = await site.damad("retry", "--state", "failed", "--error", "no route", "--json")
    assert done.json == {"matched": 1, "requeued": 1, "refused": {}}
    assert await queued_again(site, *everything) == [one, third]
    assert (await site.damad("retry", "--state", "failed,cancelled")).code == 0
    assert await queued_again(site, *everything) == list(everything)


async def test_a_dry_run_says_how_many_and_changes_nothing(site: Site) -> None:
    ids = [await failed(site, "no") for _ in range(3)]
    done = await site.damad("retry", "--state", "failed", "--dry-run")
    assert (done.code, done.out, done.err) == (0, "", "3 tasks match\n")
    done = await site.damad("retry", "--state", "failed", "--dry-run", "--json")
    assert done.json == {"matched": 3, "requeued": 0, "refused": {}}
    assert await queued_again(site, *ids) == []


async def test_one_that_cannot_be_queued_again_keeps_no_other(site: Site) -> None:
    keyed = await failed(site, "no", singleton_key="k")
    twins = [await failed(site, "no", singleton_key="t") for _ in range(2)]
    free, held = await failed(site, "no"), await failed(site, "no")
    await failed(site, "another")
    initial = Event(type=":INITIAL", meta={SETTINGS_KEY: {"worker": "ok.py", "singleton_key": "k"}}, event_uuid=uuid4())
    await site.store().queue([NewTask(initial=initial)])
    async with site.store().transaction() as connection:
        (appended,) = [Append(etl_context_id=held, event=Event(type="dama/task:REQUEUED"))]
        await site.store().append([appended], on=connection)
        done = await site.damad("retry", "--state", "failed", "--error", "no")
    assert done.code == 1
    assert "6 tasks match" in done.err and "3 of them are queued again" in done.err
    for id_ in (keyed, twins[1], held):
        assert f"damad: task {id_}: " in done.err
    assert await queued_again(site, keyed, *twins, free) == [twins[0], free]


async def test_thousands_are_queued_again_a_thousand_at_a_time(site: Site) -> None:
    start_by = {"worker": "ok.py", "start_by": "2020-01-31T08:00:00Z"}
    initial = Event(type=":INITIAL", meta={SETTINGS_KEY: start_by})
    await site.store().queue([NewTask(initial=initial) for _ in range(2300)])
    for _ in range(3):
        await site.store().database.fetch("fail_late", 1000, [])
    with site.here():
        assert await tasks.count(Ended(states=["failed"], error="did not start")) == 2300
        assert await tasks.retry_all(Ended(states=["failed"])) == tasks.Redriven(2300, 2300, {})
        assert await tasks.count(Ended(states=["failed"])) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--state"),
        (["1", "--state", "failed"], "--state"),
        (["1", "--dry-run"], "--dry-run"),
        (["--queue", "gtfs"], "--state"),
        (["--state", "done"], "'done' is neither failed nor cancelled"),
        (["--state", "failed,queued"], "'queued' is neither failed nor cancelled"),
    ],
)
async def test_what_is_no_choice_is_refused(site: Site, words: list[str], says: str) -> None:
    done = await site.damad("retry", *words)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), done
    assert says in done.err


async def test_those_that_failed_are_listed_by_what_they_failed_of(site: Site) -> None:
    for message in ("no route\nto host", "no route\nanywhere", "disk full"):
        await failed(site, message)
    late = await failed(site, "no route", kind="exit", queue="gtfs")
    done = await site.damad("tasks", "--by-error", "--json")
    assert [(cause["tasks"], cause["kind"], cause["message"]) for cause in done.json] == [
        (2, "exception", "no route"), (1, "exit", "no route"), (1, "exception", "disk full"),
    ]  # fmt: skip
    done = await site.damad("tasks", "--by-error", "--queue", "gtfs", "--json")
    assert done.json == [{"kind": "exit", "message": "no route", "tasks": 1, "newest": late}]
    assert json.loads((await site.damad("tasks", "--by-error", "--state", "cancelled", "--json")).out) == []
    shown = (await site.damad("tasks", "--by-error", "--limit", "1")).out
    assert "no route" in shown and "disk full" not in shown
    assert (await site.damad("tasks", "--by-error", "--parent", "1")).code == 2
