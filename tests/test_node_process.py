"""The process of a worker in JavaScript: how it is stopped, and how it ends with damad's own and damad's with it."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, gone
from node_support import daemon_with_node, needs_node, new_worker, run_main

from damad import processes

pytestmark = needs_node


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def daemon(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    """One daemon for all."""
    async with daemon_with_node(tmp_path_factory.mktemp("node"), template) as daemon:
        yield daemon


@pytest.fixture
def site(daemon: Daemon) -> Site:
    return daemon.site


@pytest.mark.parametrize(("end", "kind"), [("process.exit(7);", "exit"), ("process.kill(process.pid, 9);", "signal")])
async def test_its_end_is_seen_though_a_child_of_it_holds_all_its_files(
    daemon: Daemon, site: Site, end: str, kind: str
) -> None:
    body = f"""
        const {{ spawn }} = await import("node:child_process");
        const {{ readdirSync, readlinkSync }} = await import("node:fs");
        const pipes = readdirSync("/proc/self/fd").map(Number).filter((fd) => {{
            try {{ return readlinkSync(`/proc/self/fd/${{fd}}`).startsWith("pipe:"); }} catch {{ return false; }}
        }});
        spawn("sleep", ["3600"], {{ stdio: ["ignore", "inherit", "inherit", ...pipes], detached: true }}).unref();
        {end}
    """
    assert (await run_main(site, body)).error["kind"] == kind
    await daemon.quiet()


@pytest.mark.parametrize(
    "body",
    [
        "await new Promise((go) => setTimeout(go, 1e6));",
        "process.on('SIGTERM', () => {});\nawait new Promise((go) => setTimeout(go, 1e6));",
        "for (;;);",
    ],
    ids=["waits", "ignores SIGTERM", "computes"],
)
async def test_expire_in_ends_an_attempt_with_kind_timeout(daemon: Daemon, site: Site, body: str) -> None:
    assert (await run_main(site, body, expire_in=1)).error["kind"] == "timeout"
    await daemon.quiet()


# --- stopping ---

HELD = """
    import { setTimeout as sleep } from "node:timers/promises";
    export default async function main(event, damad) {
        %s
        await damad.dispatch({ type: ":HERE", payload: { pid: process.pid } });
        await sleep(1e6);
    }
"""


async def held(site: Site, before: str = "") -> tuple[int, processes.Process]:
    """A task that runs, and the process of its node."""
    id_ = await site.queue(new_worker(site, HELD % before))
    node = processes.identify((await site.event(id_, ":HERE")).payload["pid"])
    assert node is not None
    return id_, node


async def test_a_cancelled_worker_hears_sigterm_once_and_may_still_dispatch(template: str, tmp_path: Path) -> None:
    handler = 'process.once("SIGTERM", async () => { await damad.dispatch({ type: "x:TIDY" }); process.exit(0); });'
    async with daemon_with_node(tmp_path, template, DAMAD_GRACE="10m") as daemon:  # all the time that it needs
        site = daemon.site
        id_, node = await held(site, handler)
        await site.cancel(id_)
        assert (await site.ended(id_)).state == "cancelled"
        assert not processes.alive(node)
        assert [event.type for event in await site.events(id_)][-3:] == [
            "dama/task:CANCEL_REQUESTED", "x:TIDY", "dama/task:CANCELLED",
        ]  # fmt: skip


async def test_a_cancelled_worker_that_ignores_sigterm_is_dead_before_that_is_said(site: Site) -> None:
    id_, node = await held(site, 'process.on("SIGTERM", () => {});')
    await site.cancel(id_)
    await site.event(id_, "dama/task:CANCELLED")
    assert not processes.alive(node)


async def test_node_dies_with_damads_process_and_damads_process_as_node_died(site: Site) -> None:
    id_, node = await held(site)
    processes.send(await site.process(id_), signal.SIGKILL)
    assert (await site.ended(id_)).error["signal"] == signal.SIGKILL
    await gone(node)
    id_, node = await held(site)
    processes.send(node, signal.SIGKILL)
    assert (await site.ended(id_)).error["signal"] == signal.SIGKILL


async def test_a_worker_outlives_a_killed_daemon_and_the_next_one_takes_it_on(daemon: Daemon, site: Site) -> None:
    with site.gate() as gate:
        body = """
            import { existsSync, watch } from "node:fs";
            export default async function main({ payload }, damad) {
                await damad.dispatch({ type: ":HERE" });
                while (!existsSync(payload)) await new Promise((go) => setTimeout(go, 20));
                await damad.dispatch({ type: ":THERE" });
                return { attempt: damad.context.attempt };
            }
        """
        flag = gate.path.with_suffix(".flag")
        id_ = await site.queue(new_worker(site, body), str(flag))
        await site.event(id_, ":HERE")
        await daemon.kill()
        await daemon.start()
        flag.touch()
        assert (await site.ended(id_)).state == "done"
        assert await site.types(id_) == [":INITIAL", "CLAIMED", "STARTED", ":HERE", ":THERE", ":FINAL"]
