"""What damad costs while nothing happens, and how soon it is there again: idle daemon, waiting worker, restart."""

import asyncio
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

from damad import config, events, processes, tasks
from damad.bench import goals
from damad.bench.ground import IN_DAEMON, IN_PROCESS, Ground, Site, until
from damad.bench.queueing import opened_many, queue

_IMPORTS: Final = {
    goals.PYTHON_RSS: "",
    goals.LIBRARIES_RSS: "import asyncio, ssl, aiohttp.web, aiohttp_sse, asyncpg, msgspec, orjson, uvloop",
    goals.IMPORTED_RSS: "import damad.daemon",
    goals.BARE_PSS: "import asyncio, asyncpg, orjson, msgspec",
}
_A_DAY: Final = "1d"


async def idle(ground: Ground) -> dict[str, float]:
    """Memory, processor time and transactions of a daemon that has nothing to do any more."""
    site, seconds = await ground.site("idle"), ground.sizes.idle_seconds
    async with site.daemon() as daemon:
        await _worked(site)
        await asyncio.sleep(ground.sizes.settling)
        busy, transactions, began = _busy(daemon.pid), await _transactions(ground, site), monotonic()
        await asyncio.sleep(seconds)
        busy, passed = _busy(daemon.pid) - busy, monotonic() - began
        transactions = await _transactions(ground, site) - transactions
        memory, whole = _memory(daemon.pid), sum(_proportional(process.pid) for process in site.living())
    parts = (goals.PYTHON_RSS, goals.LIBRARIES_RSS, goals.IMPORTED_RSS)
    return {
        "idle.memory": memory, "idle.whole": whole, "idle.cpu": 100 * busy / passed,
        "idle.queries": transactions * 60 / passed,
        **{part: await _of_python(part) for part in parts},
    }  # fmt: skip


async def waiting(ground: Ground) -> dict[str, float]:
    """Memory of a detached worker that waits, with all that is there only because it is."""
    site = await ground.site("waiting")
    async with site.daemon():
        await _worked(site)
        before = site.living()
        workers = await _sleeping(site, ground.sizes.waiting)
        theirs = {*workers, *(watcher for worker in workers if (watcher := processes.parent(worker)) is not None)}
        theirs.update(process for process in site.living() if process not in before)
        total = sum(_proportional(process.pid) for process in theirs)
        await _cancelled(site)
    return {"waiting.memory": total / len(workers), goals.BARE_PSS: await _of_python(goals.BARE_PSS)}


async def adopt(ground: Ground) -> dict[str, float]:
    """Milliseconds from the start of a daemon until it claims a task, with open contexts and workers to adopt."""
    site, wanted = await ground.site("adopt"), ground.sizes.open_contexts
    if "adopt" not in ground.remembered:
        await opened_many(site, wanted // 2)
        await queue(site, wanted - wanted // 2, IN_PROCESS, start_after=_A_DAY)
        ground.remembered["adopt"] = True
    async with site.daemon():
        await _sleeping(site, ground.sizes.adopted, queue_name="crowd")
    with site.here():
        marker = await tasks.queue("nothing.py", queue=IN_DAEMON)
    began = float((await site.database.fetch("bench_clock"))[0]["seconds"])  # the clock that dates its events
    async with site.daemon():
        with site.here():
            await events.final(marker, timeout=60)
            (claimed,) = await site.store.read(marker, types=["dama/task:CLAIMED"])
        await _cancelled(site)
    return {"adopt": (claimed.created_timestamp.timestamp() - began) * 1000}


async def _worked(site: Site) -> None:
    """Has the daemon run a task: what it starts for the first one, and keeps, is there."""
    (id_,) = await queue(site, 1, IN_PROCESS)
    with site.here():
        await events.final(id_, timeout=60)


async def _sleeping(site: Site, count: int, *, queue_name: str = IN_PROCESS) -> list[processes.Process]:
    await queue(site, count, queue_name, "sleep.py")
    found: list[processes.Process] = []

    async def run() -> bool:
        found[:] = await site.running()
        return len(found) >= count

    await until(run, f"{count} workers did not start")
    return found


async def _cancelled(site: Site) -> None:
    """Cancels what runs, and waits until it is seen dead."""
    with site.here():
        ids = [row["etl_context_id"] for row in await site.database.fetch("bench_running")]
        for id_ in ids:
            await tasks.cancel(id_)
        for id_ in ids:
            await asyncio.wait_for(events.ended(id_), 60)


async def _transactions(ground: Ground, site: Site) -> float:
    """Those of a site so far, asked from another database: what asks is not counted."""
    name = urlsplit(site.database.dsn).path.removeprefix("/")
    return float((await ground.beside.fetch("bench_commits", name))[0]["transactions"])


async def _of_python(which: str) -> float:
    """The memory of a Python that has imported something and waits, in MB: resident, or its share."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", f"{_IMPORTS[which]}\nprint(flush=True); input()", stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, env=config.own_environment(),
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        await process.stdout.readline()
        return _proportional(process.pid) if which == goals.BARE_PSS else _memory(process.pid)
    finally:
        process.stdin.write(b"\n")
        await process.wait()


def _busy(pid: int) -> float:
    """The seconds that all threads of a process have run."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def _memory(pid: int) -> float:
    """Memory in MB that is resident, shared or not (RSS)."""
    return _megabytes(Path(f"/proc/{pid}/status"), "VmRSS")


def _proportional(pid: int) -> float:
    """Memory in MB in which what is shared with others counts in part (PSS)."""
    return _megabytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss")


def _megabytes(path: Path, field: str) -> float:
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0]) / 1024
    raise LookupError(f"{path} has no {field}")
