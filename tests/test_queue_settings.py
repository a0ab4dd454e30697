"""Queues as data: what may be set for them, over what the host says, and what the tasks in them have of it."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from daemon_support import SOON, until

from damad import errors, queues, tasks
from damad.context import EtlContext
from damad.eventstore.pools import Database
from damad.eventstore.serving import Host as ServingHost
from damad.eventstore.serving import serving
from damad.eventstore.store import TaskState

ELSEWHERE = "0d9d5b5e-7d5b-4b37-a3a5-5a3a5d0c2c11"


async def test_what_is_set_for_a_queue_wins_over_what_the_host_says_and_can_be_taken_back(ctx: EtlContext) -> None:
    set_ = await queues.change("etl", {"concurrency": 9, "run_in": "daemon", "shared": True, "retry_limit": 0})
    assert (set_.concurrency, set_.run_in, set_.shared, set_.settings) == (9, "daemon", True, {"retry_limit": 0})
    back = await queues.change("etl", {"concurrency": None, "run_in": None, "shared": None, "retry_limit": None})
    assert (back.concurrency, back.run_in, back.shared, back.settings) == (4, "process", False, {})


async def test_what_is_not_mentioned_stays_as_it_was_set(ctx: EtlContext) -> None:
    await queues.change("etl", {"global_concurrency": 2, "rate": "5/1s", "priority": 3})
    after = await queues.change("etl", {"key_concurrency": 1, "key_rate": "1/1m", "aging": "10m", "retry_limit": 1})
    assert (after.global_concurrency, after.rate, after.key_concurrency, after.key_rate) == (2, "5/1s", 1, "1/1m")
    assert (after.aging, (await queues.change("etl", {"aging": None})).aging) == (600.0, None)
    assert after.settings == {"priority": 3, "retry_limit": 1}


async def test_a_change_is_announced_to_the_daemons(ctx: EtlContext, plain: "asyncpg.Connection[Any]") -> None:
    heard = asyncio.Event()
    await plain.add_listener("DAMAD_TASK", lambda *_: heard.set())
    for _ in range(2):  # a queue that is made, and one that is there
        await queues.change("etl", {"concurrency": 1})
        async with asyncio.timeout(SOON):
            await heard.wait()
        heard.clear()


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ({"concurrency": -1}, "/concurrency"),
        ({"concurrency": "3"}, "/concurrency"),
        ({"concurrency": True}, "/concurrency"),
        ({"concurrency": 2**31}, "/concurrency"),
        ({"global_concurrency": 0}, "/global_concurrency"),
        ({"key_concurrency": 0}, "/key_concurrency"),
        ({"rate": "fast"}, "/rate"),
        ({"rate": "0/1s"}, "/rate"),
        ({"rate": "5/0s"}, "/rate"),
        ({"rate": "5/1y"}, "/rate"),
        ({"rate": "5/9999999999d"}, "/rate"),
        ({"rate": 5}, "/rate"),
        ({"key_rate": "fast"}, "/key_rate"),
        ({"key_rate": "1/0.0ms"}, "/key_rate"),
        ({"aging": 0}, "/aging"),
        ({"aging": "soon"}, "/aging"),
        ({"aging": -1}, "/aging"),
        ({"aging": True}, "/aging"),
        ({"run_in": "thread"}, "/run_in"),
        ({"paused": 1}, "/paused"),
        ({"shared": "yes"}, "/shared"),
        ({"retry_limit": -1}, "/retry_limit"),
        ({"worker": "ok.py"}, "/worker"),
        ({"idempotency_key": "k"}, "/idempotency_key"),
        ({"a/b": 1}, "/a~1b"),
        ({"name": "other"}, "/name"),
    ],
)
async def test_what_does_not_fit_is_refused_and_changes_nothing(
    ctx: EtlContext, given: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(errors.InvalidInput) as refusal:
        await queues.change("etl", {"concurrency": 2, **given})
    assert refusal.value.pointer == pointer
    with pytest.raises(errors.NotFound):
        await queues.get("etl")


@pytest.mark.parametrize("name", ["", "Etl", "1etl", "e-tl", "ëtl", "e" * 64, "e\0"])
async def test_what_is_no_name_is_no_queue(ctx: EtlContext, name: str) -> None:
    with pytest.raises(errors.InvalidInput):
        await queues.change(name, {})


async def test_the_settings_of_a_queue_are_for_tasks_that_do_not_say(ctx: EtlContext) -> None:
    await queues.change("etl", {"retry_limit": 7, "priority": 5, "expire_in": "1m"})
    state = await tasks.status(await tasks.queue("ok.py", queue="etl", priority=1))
    assert isinstance(state, TaskState)
    assert (state.priority, state.settings["retry_limit"], state.settings["expire_in"]) == (1, 7, 60.0)
    assert state.settings["defaults"] == ["expire_in", "retry_limit"]
    elsewhere = await tasks.status(await tasks.queue("ok.py"))
    assert isinstance(elsewhere, TaskState)
    assert "retry_limit" not in elsewhere.settings


async def test_a_key_that_was_seen_is_the_same_task_whatever_the_queue_says_by_then(ctx: EtlContext) -> None:
    first = await tasks.queue("ok.py", queue="etl", idempotency_key="k")
    await queues.change("etl", {"retry_limit": 7})
    assert await tasks.queue("ok.py", queue="etl", idempotency_key="k") == first


async def test_a_task_says_why_its_queue_or_its_host_does_not_run_it(ctx: EtlContext, tmp_path: Path) -> None:
    id_, host_id = await tasks.queue("ok.py", queue="etl"), ctx.here.host_id or ""

    async def why() -> str:
        (state,) = await queues.explained([await tasks.status(id_)])
        assert isinstance(state, TaskState)
        return state.held or ""

    assert f"no daemon serves host {host_id}" in await why()
    async with serving(ctx.store.database, ServingHost(host_id, tmp_path / "dama_host_id")):
        assert await why() == ""
        await queues.pause("etl")
        assert "resume it with `damad queues resume etl`" in await why()
        await queues.change("etl", {"paused": None, "concurrency": 0})
        assert "concurrency 0" in await why()
    await queues.change("etl", {"concurrency": None, "shared": True})

    async def nobody_serves() -> bool:
        return "no daemon serves it" in await why()

    await until(nobody_serves)  # Postgres hears of the end of a session when it comes to it
    async with serving(ctx.store.database, ServingHost(ELSEWHERE, tmp_path / "another")):
        assert await why() == ""


async def test_a_hundred_tasks_are_explained_with_as_many_statements_as_one(
    ctx: EtlContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, fetch = list[str](), Database.fetch

    async def counted(database: Database, name: str, *given: Any, **how: Any) -> Any:
        asked.append(name)
        return await fetch(database, name, *given, **how)

    for n in range(100):
        await tasks.queue("ok.py", queue=f"q{n % 5}")
    await queues.pause("q1")
    await queues.change("q2", {"shared": True})
    found = await ctx.store.tasks()
    with monkeypatch.context() as patch:
        patch.setattr(Database, "fetch", counted)
        explained = await queues.explained(found)
        ended = await queues.explained([msgspec.structs.replace(state, state="done") for state in found])
    assert asked == ["queues", "serving_sessions", "served_hosts"]
    reasons = [state.held or "" for state in explained if isinstance(state, TaskState)]
    assert [sum(words in reason for reason in reasons) for words in ("is paused", "serves it", "serves host")] == [
        20, 20, 60,
    ]  # fmt: skip
    assert [state.held for state in ended if isinstance(state, TaskState)] == [None] * 100
