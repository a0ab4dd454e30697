"""Waits of a task (contract, section 3): short ones stay in the process, a longer one ends it and `main` runs again."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, daemon_on, site_of

from damad import errors, tasks

SETTINGS = {
    "DAMAD_WAIT_IN_PROCESS": "100ms",
    "DAMAD_POLL_INTERVAL": "1s",
    "DAMAD_GRACE": "500ms",
    "DAMAD_QUEUE_INSIDE_RUN_IN": "daemon",
    "DAMAD_QUEUE_ONE_CONCURRENCY": "1",
}
BOTH = pytest.mark.parametrize("queue", ["default", "inside"])
"""In a process, and in the daemon itself."""
RUN = ["CLAIMED", "STARTED"]


def worker(body: str) -> str:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"import asyncio\nfrom damad import context, events, tasks\n\nasync def main(event):\n{lines}"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def daemon(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    async with site_of(tmp_path_factory.mktemp("waits"), template, **SETTINGS) as site, daemon_on(site) as daemon:
        yield daemon
        await site.verified()


@pytest.fixture
def site(daemon: Daemon) -> Site:
    return daemon.site


async def signalled(site: Site, id_: int, type_: str, payload: Any = None) -> None:
    with site.here():
        await tasks.signal(id_, {"type": type_, "payload": payload})


async def waits(site: Site, id_: int, nth: int = 1) -> None:
    """Returns once a task has ended to wait, for the nth time."""
    await site.event(id_, "dama/task:WAITING", nth=nth)


async def attempts(site: Site, id_: int) -> list[int]:
    return [event.payload["attempt"] for event in await site.events(id_, "dama/task:STARTED")]


# --- a moment ---


@BOTH
async def test_a_long_sleep_ends_the_process_and_main_runs_again_after_it(site: Site, queue: str) -> None:
    done = await site.run(worker("print('here')\nawait tasks.sleep(0.3)\nreturn {'slept': True}"), queue=queue)
    assert done.result == {"slept": True}
    assert await site.types(done.id) == [":INITIAL", *RUN, "WAITING", "RESUMED", *RUN, ":FINAL"]
    assert await attempts(site, done.id) == [1, 1]
    assert (await site.log(done.id)).splitlines() == ["here", "here"]
    waiting, resumed = await site.events(done.id, "dama/task:WAITING", "dama/task:RESUMED")
    assert resumed.payload == {"name": "sleep #1", "reason": "time"}
    assert waiting.payload["until"] <= resumed.created_timestamp.isoformat()


@BOTH
async def test_a_short_wait_stays_in_the_process_and_appends_nothing(site: Site, queue: str) -> None:
    body = "await tasks.sleep(0.01)\nawait events.dispatch({'type': ':A'})\nawait tasks.wait_for(':A')\nreturn {}"
    done = await site.run(worker(body), queue=queue)
    assert await site.types(done.id) == [":INITIAL", *RUN, ":A", ":FINAL"]


async def test_a_sleep_that_is_over_is_not_slept_again_by_a_later_attempt(site: Site) -> None:
    body = """
await tasks.sleep("300ms")
await tasks.sleep(0.2, name="once more")
if context.current().attempt == 1:
    raise ValueError("after both")
return {}
"""
    done = await site.run(worker(body), retry_delay=0.01)
    both = ["WAITING", "RESUMED", *RUN] * 2
    assert await site.types(done.id) == [":INITIAL", *RUN, *both, "ERROR", "RETRY", *RUN, ":FINAL"]
    resumed = await site.events(done.id, "dama/task:RESUMED")
    assert [event.payload["name"] for event in resumed] == ["sleep #1", "once more"]


# --- an event ---

APPROVED = "a = await tasks.wait_for(':APPROVED')\nreturn {'by': a['payload'], 'version': a['version']}"


@BOTH
async def test_an_event_that_came_before_anybody_waited_is_found(site: Site, queue: str) -> None:
    with site.gate() as gate:
        wait = f"import gate\nawait asyncio.to_thread(gate.wait, {str(gate.path)!r})\n"
        id_ = await site.queue(
            site.worker(worker("await events.dispatch({'type': ':HERE'})\n" + wait + APPROVED)), queue=queue
        )
        await site.event(id_, ":HERE")
        await signalled(site, id_, ":APPROVED", "me")
    await site.ended(id_)
    assert await site.types(id_) == [":INITIAL", *RUN, ":HERE", ":APPROVED", ":FINAL"]
    assert (await site.events(id_))[-1].payload == {"by": "me", "version": 5}


@BOTH
async def test_an_event_that_comes_after_the_process_has_ended_queues_the_task_again(site: Site, queue: str) -> None:
    id_ = await site.queue(site.worker(worker(APPROVED)), queue=queue)
    await waits(site, id_)
    await signalled(site, id_, ":OTHER")
    assert (await site.state(id_)).state == "waiting"
    await signalled(site, id_, ":APPROVED", "me")
    await site.ended(id_)
    assert await site.types(id_) == [
        ":INITIAL", *RUN, "WAITING", ":OTHER", ":APPROVED", "RESUMED", *RUN, ":FINAL"
    ]  # fmt: skip
    assert (await site.events(id_))[-1].payload == {"by": "me", "version": 6}
    waiting, resumed = await site.events(id_, "dama/task:WAITING", "dama/task:RESUMED")
    name = "wait_for :APPROVED #1"
    assert waiting.payload == {"name": name, "event": ":APPROVED", "after_version": 0}
    assert resumed.payload == {"name": name, "reason": "event", "version": 6}


async def test_an_event_that_comes_while_the_process_ends_is_not_lost(site: Site) -> None:
    body = """
try:
    await tasks.wait_for(":APPROVED")
except Exception:
    raise
finally:
    await events.dispatch({"type": ":APPROVED"})
return {"n": len(await events.read())}
"""
    done = await site.run(worker(body))
    assert await site.types(done.id) == [
        ":INITIAL", *RUN, ":APPROVED", "WAITING", "RESUMED", *RUN, ":APPROVED", ":FINAL"
    ]  # fmt: skip


async def test_each_event_of_a_type_ends_one_wait_in_their_order(site: Site) -> None:
    body = """
found = [await tasks.wait_for(":A") for _ in range(3)]
return {"found": [event["payload"] for event in found]}
"""
    id_ = await site.queue(site.worker(worker(body)))
    await waits(site, id_)
    await signalled(site, id_, ":A", 1)
    await waits(site, id_, 2)
    await signalled(site, id_, ":A", 2)
    await waits(site, id_, 3)
    await signalled(site, id_, ":A", 3)
    assert (await site.ended(id_)).state == "done"
    assert (await site.events(id_))[-1].payload == {"found": [1, 2, 3]}
    assert await attempts(site, id_) == [1, 1, 1, 1]


# --- a timeout ---

IN_TIME = """
try:
    await tasks.wait_for(":APPROVED", timeout={timeout})
    return {{"in_time": True}}
except TimeoutError:
    await events.dispatch({{"type": ":LATE"}})
await tasks.sleep(0.2)
return {{"in_time": False}}
"""


@BOTH
@pytest.mark.parametrize("timeout", [0.02, 0.3])
async def test_a_wait_that_timed_out_does_so_again_though_the_event_came_later(
    site: Site, queue: str, timeout: float
) -> None:
    id_ = await site.queue(site.worker(worker(IN_TIME.format(timeout=timeout))), queue=queue)
    await site.event(id_, ":LATE")
    await signalled(site, id_, ":APPROVED")
    await site.ended(id_)
    assert (await site.events(id_))[-1].payload == {"in_time": False}
    assert (await site.types(id_)).count("WAITING") == (1 if timeout < 0.1 else 2)


async def test_what_timed_out_is_waited_for_again_once_a_person_retries_the_task(site: Site) -> None:
    body = """
try:
    return await tasks.wait_for(":A", timeout=0.2) and {"in_time": True}
except TimeoutError:
    raise tasks.NoRetry("too late")
"""
    failed = await site.run(worker(body))
    assert failed.error["message"] == "NoRetry: too late"
    await site.retry(failed.id)
    await signalled(site, failed.id, ":A")
    assert (await site.ended(failed.id)).state == "done"


# --- others ---


async def test_a_childs_failure_is_raised_in_the_parent_which_can_cancel_the_others(site: Site) -> None:
    site.worker(worker("await tasks.wait_for(':FAIL')\nraise tasks.NoRetry('no')"), "fails.py")
    site.worker(worker("await tasks.wait_for(':NEVER')"), "waits.py")
    body = """
a = await tasks.subtask("a", worker="waits.py")
b = await tasks.subtask("b", worker="fails.py")
try:
    await tasks.first(a, b)
except tasks.TaskFailed as failed:
    await tasks.cancel(a.etl_context_id)
try:
    await tasks.gather(a, b)
except tasks.TaskCancelled:
    return {"outcomes": [type(one).__name__ for one in await tasks.gather(a, b, return_exceptions=True)]}
"""
    id_ = await site.queue(site.worker(worker(body)), retry_limit=0)
    await waits(site, id_)
    fails = (await site.event(id_, "dama/task:SUBTASK", nth=2)).payload["etl_context_id"]
    await signalled(site, fails, ":FAIL")
    assert (await site.ended(id_)).state == "done"
    assert (await site.events(id_))[-1].payload == {"outcomes": ["TaskCancelled", "TaskFailed"]}


@BOTH
async def test_children_are_given_out_as_they_end(site: Site, queue: str) -> None:
    site.worker(worker("return {'n': (await tasks.wait_for(':GO'))['payload']}"), "number.py")
    body = """
children = [await tasks.subtask(f"child {n}", worker="number.py") for n in range(3)]
fastest = await tasks.first(*children)
ended = [(child.name, result["n"]) async for child, result in tasks.as_completed(*children)]
return {"fastest": fastest["n"], "ended": ended}
"""
    id_ = await site.queue(site.worker(worker(body)), queue=queue)
    for nth, child in ((3, 2), (1, 0), (2, 1)):
        asked = (await site.event(id_, "dama/task:SUBTASK", nth=nth)).payload["etl_context_id"]
        await signalled(site, asked, ":GO", child)
        await site.ended(asked)
    assert (await site.ended(id_)).state == "done"
    result = (await site.events(id_))[-1].payload
    assert result == {"fastest": 2, "ended": [["child 2", 2], ["child 0", 0], ["child 1", 1]]}


# --- cancelled ---


async def test_a_waiting_task_is_cancelled_at_once_and_its_open_descendants_with_it(site: Site) -> None:
    site.worker(worker("await tasks.wait_for(':NEVER')"), "never.py")
    site.worker(worker("await tasks.gather(await tasks.subtask('c', worker='never.py'))"), "middle.py")
    site.worker("def main(): return {}", "quick.py")
    body = """
done = await tasks.subtask("done", worker="quick.py")
later = await tasks.subtask("l", worker="never.py", start_after=3600)
await tasks.gather(done, await tasks.subtask("m", worker="middle.py"), later)
"""
    id_ = await site.queue(site.worker(worker(body)))
    await waits(site, id_)  # its three children are there
    with site.here():
        while len(states := await site.store().tree(id_)) < 5 or states[-1].state != "waiting":
            await site.event(states[-1].etl_context_id, "dama/task:WAITING")
        await site.reaches(states[1].etl_context_id, "done")
    assert (await site.cancel(id_)).state == "cancelled"
    for state in states[2:]:
        assert (await site.ended(state.etl_context_id)).state == "cancelled"
    assert (await site.types(id_))[-2:] == ["CANCEL_REQUESTED", "CANCELLED"]
    assert (await site.state(states[1].etl_context_id)).state == "done"


async def test_a_final_event_from_outside_ends_a_waiting_task(site: Site) -> None:
    id_ = await site.queue(site.worker(worker("await tasks.wait_for(':NEVER')")))
    await waits(site, id_)
    await signalled(site, id_, ":FINAL")
    assert (await site.ended(id_)).state == "done"
    with pytest.raises(errors.IllegalTransition):
        await signalled(site, id_, ":NEVER")


# --- how main is written ---


async def test_a_worker_whose_file_changed_meanwhile_goes_on_as_the_new_one(site: Site) -> None:
    name = site.worker(worker("await tasks.wait_for(':GO')\nreturn {'old': True}"))
    id_ = await site.queue(name)
    await waits(site, id_)
    site.worker(worker("await tasks.sleep(0.01)\nawait tasks.wait_for(':GO')\nreturn {'new': True}"), name)
    await signalled(site, id_, ":GO")
    await site.ended(id_)
    assert (await site.events(id_))[-1].payload == {"new": True}
    first, second = await site.events(id_, "dama/task:STARTED")
    assert first.payload["sha256"] != second.payload["sha256"]


async def test_a_sync_main_waits_as_well(site: Site) -> None:
    source = """
        from damad import tasks

        def main():
            tasks.sleep_sync(0.2)
            return {"by": tasks.wait_for_sync(":APPROVED", timeout="1h")["payload"]}
    """
    id_ = await site.queue(site.worker(source))
    await waits(site, id_, 2)
    await signalled(site, id_, ":APPROVED", "me")
    await site.ended(id_)
    assert (await site.events(id_))[-1].payload == {"by": "me"}


@BOTH
async def test_what_main_does_with_exceptions_and_groups_keeps_no_wait_from_ending_it(site: Site, queue: str) -> None:
    body = """
async def both():
    async with asyncio.TaskGroup() as group:
        group.create_task(tasks.sleep(0.2))
        group.create_task(tasks.wait_for(":NEVER", timeout=0.3))
try:
    await both()
except* TimeoutError:
    result = {"timed out": True}
except* Exception as other:
    result = {"other": repr(other)}
return result
"""
    done = await site.run(worker(body), queue=queue, retry_limit=0)
    assert done.result == {"timed out": True}


async def test_a_result_counts_though_a_task_beside_main_wanted_to_wait_longer(site: Site) -> None:
    body = """
beside = asyncio.create_task(tasks.sleep(3600))
await asyncio.wait([beside])
return {"done": beside.exception() is not None}
"""
    assert (await site.run(worker(body))).result == {"done": True}


async def test_nobody_waits_inside_a_transaction(site: Site) -> None:
    failed = await site.run(worker("async with events.transaction():\n    await tasks.sleep(1)"), retry_limit=0)
    assert "inside events.transaction()" in failed.error["message"]
