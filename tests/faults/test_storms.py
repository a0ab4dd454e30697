"""Restart storms: a daemon that is killed again and again burns nothing, and what crashes by itself is bounded."""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Callable

import pytest
from daemon_support import DAMAD, Daemon, Site, until
from test_crash_points import EXCLUSIVE, check

KILLS = int(os.environ.get("STORM_KILLS", "20"))
PACE = float(os.environ.get("STORM_PACE", "1.0"))
"""Seconds, about, that each daemon of a storm has from its start to its death."""
SEED = int(os.environ.get("STORM_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)

SETTINGS = {
    "DAMAD_QUEUE_DEFAULT_CONCURRENCY": "6",
    "DAMAD_QUEUE_DEFAULT_RETRY_DELAY_MAX": "100ms",
    "DAMAD_QUEUE_DEFAULT_RETRY_LIMIT": "0",
}

HEALTHY = (
    EXCLUSIVE
    + """
import time

def main(initial_event):
    with open(f"{initial_event['payload']['folder']}/ran.{ctx.etl_context_id}", "a") as file:
        file.write("ran\\n")
    time.sleep(0.4)
    return {"attempt": ctx.attempt}
"""
)

CRASHES = (
    EXCLUSIVE
    + """
import time

def main(initial_event):
    with open(f"{initial_event['payload']['folder']}/ran.{ctx.etl_context_id}", "a") as file:
        file.write("ran\\n")
    time.sleep(0.1)
    os._exit(7)
"""
)


async def storm(site: Site, worker: str, *, each: int, **settings: int) -> list[int]:
    """Queues tasks while daemons are started and killed, wherever in their work they are just then."""
    print(f"STORM_SEED={SEED} STORM_KILLS={KILLS} STORM_PACE={PACE}")
    dice, ids = random.Random(SEED), list[int]()
    for _ in range(KILLS):
        ids += [await site.queue(worker, {"folder": str(site.folder)}, **settings) for _ in range(each)]
        with (site.folder / "daemon.log").open("ab") as log:
            daemon = await asyncio.create_subprocess_exec(
                *DAMAD, "serve", "--port", "0", cwd=site.folder, env=site.environment,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
        await asyncio.sleep(PACE * dice.uniform(0.5, 1.5))
        daemon.send_signal(signal.SIGKILL)
        assert await daemon.wait() == -signal.SIGKILL
    return ids


async def calm(site: Site, ids: list[int]) -> None:
    """A daemon that nobody kills brings all of it to its end, and leaves nothing behind."""
    daemon = Daemon(site)
    await daemon.start()

    async def all_ended() -> bool:
        return not await site.store().tasks(states=["queued", "scheduled", "claimed", "running", "retrying"], limit=1)

    await until(all_ended, lambda: site.processes(), within=120)
    await daemon.quiet()
    runs = site.state_dir / "runs" / "local"
    await until(lambda: not list(runs.iterdir()), lambda: list(runs.iterdir()))
    assert await daemon.stop() == 0
    assert "Traceback" not in daemon.log, daemon.log
    await site.verified()
    for id_ in ids:
        check(await site.events(id_))
    assert "running." not in "".join(await site.errors(*ids)), "two attempts lived at once"


async def kinds(site: Site, id_: int) -> Counter[str]:
    return Counter(await site.types(id_))


def times_run(site: Site, id_: int) -> int:
    return len((site.folder / f"ran.{id_}").read_text().split())


@pytest.mark.fault(
    fault="the daemon is killed every second while tasks are queued and started",
    injected="SIGKILL, wherever it is just then",
    invariants="I1 I4 I6 I10 I12",
)
async def test_a_storm_of_restarts_burns_no_attempt_of_a_healthy_worker(
    site: Site, record_property: Callable[[str, object], None]
) -> None:
    record_property("injected", KILLS)
    ids = await storm(site, site.worker(HEALTHY), each=3)
    await calm(site, ids)
    released = 0
    for id_ in ids:
        said = await kinds(site, id_)
        assert (said["STARTED"], said[":FINAL"], said["ERROR"]) == (1, 1, 0), said
        assert said["CLAIMED"] == said["RELEASED"] + 1, said
        assert times_run(site, id_) == 1
        released += said["RELEASED"]
    print(f"{len(ids)} tasks, {KILLS} kills, {released} claims released")


@pytest.mark.fault(
    fault="workers crash, and the daemon is killed every second too",
    injected="exit code 7 in each attempt, SIGKILL to the daemon",
    invariants="I4 I6 I10 I12",
)
@pytest.mark.parametrize("retry_limit", [0, 3])
async def test_a_worker_that_always_crashes_is_bounded_by_its_retry_limit_in_a_storm_too(
    site: Site, retry_limit: int, record_property: Callable[[str, object], None]
) -> None:
    record_property("injected", KILLS)
    ids = await storm(site, site.worker(CRASHES), each=1, retry_limit=retry_limit)
    await calm(site, ids)
    for id_ in ids:
        said = await kinds(site, id_)
        assert (said["STARTED"], said["ERROR"], said["RETRY"]) == (retry_limit + 1, retry_limit + 1, retry_limit), said
        assert said["FAILED"] == 1
        assert times_run(site, id_) == retry_limit + 1
        causes = {event.payload["kind"] for event in await site.events(id_, "dama/task:ERROR")}
        assert causes == {"exit"}
