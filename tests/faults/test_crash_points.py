"""Whatever process dies at whatever named place between two durable effects: every task ends right all the same."""

import asyncio
import signal
from contextlib import suppress

import pytest
from daemon_support import SOON, Daemon, Site, until

from damad import failpoints, tasks
from damad.model.event import RecordedEvent

EXCLUSIVE = """
import fcntl, os
from damad import context

ctx = context.current()
lock = open(f"{ctx.initial_event['payload']['folder']}/running.{ctx.etl_context_id}", "w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)   # raises where another attempt of this task lives
"""
"""What every worker here begins with: the proof that it is alone."""

GOOD = (
    EXCLUSIVE
    + """
async def main(initial_event):
    return {"attempt": ctx.attempt}
"""
)

CRASHES_ONCE = (
    EXCLUSIVE
    + """
def main(initial_event):
    if not os.path.exists(initial_event["payload"]["folder"] + "/crashed"):
        open(initial_event["payload"]["folder"] + "/crashed", "w").close()
        os._exit(7)
    return {"attempt": ctx.attempt}
"""
)

FAILS = (
    EXCLUSIVE
    + """
def main(initial_event):
    raise ValueError("no use")
"""
)

HOLDS = (
    EXCLUSIVE
    + """
import time
def main(initial_event):
    time.sleep(1000)
"""
)

WAITS = (
    EXCLUSIVE
    + """
from damad import tasks
async def main(initial_event):
    await tasks.sleep(0.3)
    await tasks.wait_for(":GO")
    return {"attempt": ctx.attempt}
"""
)


OF_TASKS = [name for name in failpoints.NAMES if not name.startswith(("ticks.", "archive."))]
"""The places that a task passes. The others: tests/test_schedules_daemon.py, tests/test_archive_crashes.py."""
ALONE = [name for name in failpoints.NAMES if name.startswith(("parent.", "runner.")) or "launch" in name]
"""The places that a process passes which no fork server has forked."""


@pytest.mark.fault(
    fault="a process dies, fails or hangs between two durable effects",
    injected="`DAMAD_FAILPOINT` at each of its places: kill, raise, delay",
    invariants="I1 I2 I3 I4 I6 I8 I10 I12",
)
@pytest.mark.parametrize("action", ["kill", "raise", "delay"])
@pytest.mark.parametrize(
    ("forked", "name"), [("true", name) for name in OF_TASKS] + [("false", name) for name in ALONE]
)
async def test_every_task_ends_right_after_a_death_at(site: Site, name: str, action: str, forked: str) -> None:
    """forked: by a fork server, or each process by itself."""
    hit, clean = Daemon(site), Daemon(site)
    payload = {"folder": str(site.folder)}
    await hit.start(DAMAD_FAILPOINT=f"{name}:{action}", DAMAD_FORK_SERVER=forked, DAMAD_WAIT_IN_PROCESS="100ms")
    good, crashing, held, waiting = [
        await site.queue(site.worker(source), payload, retry_limit=50) for source in (GOOD, CRASHES_ONCE, HOLDS, WAITS)
    ]
    told = site.worker("def main():\n    return {}\n")
    failing = await site.queue(site.worker(FAILS), payload, retry_limit=0, on_failure=told)
    await something_happens(site, hit, good, crashing, held, waiting)
    await site.cancel(held)
    if name == "supervisor.killed" and action == "kill":
        await hit.exits()
    with suppress(ProcessLookupError):
        await hit.stop(signal.SIGKILL)

    with site.here():
        await tasks.signal(waiting, {"type": ":GO"})
    await clean.start()
    ended = [(await site.ended(id_)).state for id_ in (good, crashing, held, waiting)]
    assert ended == ["done", "done", "cancelled", "done"]
    assert (await site.ended(failing)).state == "failed"
    (child,) = await site.store().tasks(parent_context_id=failing)
    await site.ended(child.etl_context_id)
    await clean.quiet()
    runs = site.state_dir / "runs" / "local"
    await until(lambda: not list(runs.iterdir()), lambda: list(runs.iterdir()))
    assert await clean.stop() == 0
    await site.verified()
    for id_ in (good, crashing, held, waiting, failing):
        check(await site.events(id_))
    assert "running." not in "".join(await site.errors(good, crashing, waiting))


async def something_happens(site: Site, daemon: Daemon, *ids: int) -> None:
    """Returns once the daemon died, or each task went beyond its first claim, the last beyond its first wait."""

    async def beyond(id_: int) -> None:
        async def is_beyond() -> bool:
            began = {"RESUMED", "ERROR"} if id_ == ids[-1] else {"STARTED"}
            return bool({*began, "RELEASED"} & set(await site.types(id_)))

        await until(is_beyond)

    waits = [asyncio.create_task(daemon.exits()), asyncio.ensure_future(asyncio.gather(*map(beyond, ids)))]
    done, _ = await asyncio.wait(waits, timeout=SOON, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    assert done


def check(events: list[RecordedEvent]) -> None:
    """The history of one task obeys I2, I3 and I12."""
    types = [event.type.removeprefix("dama/task:") for event in events]
    assert [event.version for event in events] == list(range(1, len(events) + 1))
    assert types[0] == ":INITIAL" and types.count(":INITIAL") == 1
    assert types.count(":FINAL") <= 1 and (":FINAL" not in types or types[-1] == ":FINAL")
    assert len({event.event_uuid for event in events}) == len(events)
    attempt, resumed = 0, 0
    for event in events:
        if event.type == "dama/task:STARTED":
            attempt, resumed = attempt + 1 - resumed, 0
            assert event.payload["attempt"] == attempt
        elif event.type == "dama/task:RESUMED":
            resumed = 1
    fences = [event.payload["fence"] for event in events if event.type == "dama/task:CLAIMED"]
    assert fences == list(range(1, len(fences) + 1))
    assert types.count("ERROR") <= types.count("STARTED")
