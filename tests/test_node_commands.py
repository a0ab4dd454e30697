"""Workers in JavaScript on a terminal, under a debugger, and where there is no Node.js for them."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from daemon_support import SOON, Site, daemon_on, gone, site_of, until
from node_support import needs_node, node_on_the_path
from test_cli_debugging import only_task, the_port
from test_runner_exit_codes import Runner

from damad import processes
from damad.runner import records

pytestmark = needs_node

DOUBLE = "export default function main(event) {\n  const double = 2 * event.payload;\n  return { double };\n}\n"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("commands")
    settings = {"DAMAD_GRACE": "500ms", "DAMAD_QUEUE_INSIDE_RUN_IN": "daemon"}
    with node_on_the_path():
        async with site_of(folder, template, **settings) as site:
            yield site
            await site.quiet()
            await site.verified()


async def test_run_needs_no_daemon(site: Site) -> None:
    worker = site.worker(f"console.log('loaded');\n{DOUBLE}", "double.mjs")
    done = await site.damad("run", worker, "--payload", "4")
    assert (done.code, done.out) == (0, '{"double":8}\n')
    assert "loaded" in done.err


async def test_a_failure_is_on_stderr_with_its_stack_and_ends_with_1(site: Site) -> None:
    worker = site.worker("export default () => { throw new RangeError('too far'); };", "far.mjs")
    done = await site.damad("run", worker)
    assert (done.code, done.out) == (1, "")
    assert "RangeError: too far" in done.err and "far.mjs:1" in done.err


async def test_terminated_it_ends_node_and_says_how_it_ended(site: Site) -> None:
    source = "export default async (event, damad) => {\n await damad.dispatch({ type: ':HERE' });\n for (;;);\n};"
    worker = site.worker(source, "spins.mjs")
    async with site.command("run", worker) as command:
        await until(lambda: runs(site, worker))
        await site.event(await only_task(site), ":HERE")
        command.terminate()
        async with asyncio.timeout(SOON):
            assert await command.wait() == 1
    error = (await site.state(await only_task(site))).error
    assert (error["kind"], error["signal"]) == ("signal", 15)


async def runs(site: Site, worker: str) -> bool:
    """True once the newest task is that worker's."""
    return [task.worker for task in await site.store().tasks(limit=1)] == [worker]


async def test_node_ends_with_damads_process_also_where_nobody_is_left_to_end_it(site: Site, tmp_path: Path) -> None:
    source = """
        import { mkdirSync } from "node:fs";
        export default async (event) => {
            mkdirSync(`${event.payload}/${process.pid}`);
            await new Promise((go) => setTimeout(go, 1e6));
        };
    """
    runner, id_ = Runner(site), await site.queue(site.worker(source, "left.mjs"), str(tmp_path))
    run = await runner.start(id_, await runner.claim(id_))
    await until(lambda: any(tmp_path.iterdir()))
    node = processes.identify(int(next(tmp_path.iterdir()).name))
    known = records.read_processes(run)
    assert node is not None and known is not None
    for process in known:
        processes.send(process, signal.SIGKILL)
    await gone(node)


async def test_typescript_on_a_node_that_does_not_run_it_says_which_version_does(site: Site) -> None:
    worker = site.worker("export default (event: object) => ({ event });", "typed.ts")
    done = await site.damad("run", worker, NODE_OPTIONS="--no-experimental-strip-types")
    assert done.code == 1
    error = (await site.state(await only_task(site))).error
    assert (error["kind"], error["exit_code"]) == ("load", 104)
    assert "22.18" in error["message"]


async def test_where_there_is_no_node_the_task_is_refused_before_it_is_queued(site: Site, tmp_path: Path) -> None:
    worker = site.worker(DOUBLE, "refused.mjs")
    for command in ("queue", "run"):
        done = await site.damad(command, worker, PATH=str(tmp_path))
        assert (done.code, done.out) == (2, "")
        assert "needs Node.js" in done.err


async def test_where_node_vanished_after_a_task_was_queued_its_attempt_fails_with_104(
    site: Site, tmp_path: Path
) -> None:
    id_ = await site.queue(site.worker(DOUBLE, "vanished.mjs"), 4, retry_limit=0)
    done = await site.damad("run", "--context", str(id_), PATH=str(tmp_path))
    assert done.code == 1
    error = (await site.state(id_)).error
    assert (error["kind"], error["exit_code"]) == ("load", 104)
    assert "needs Node.js" in error["message"]


async def test_a_queue_that_runs_in_the_daemon_refuses_it(site: Site) -> None:
    async with daemon_on(site):
        id_ = await site.queue(site.worker(DOUBLE, "inside.mjs"), 4, queue="inside")
        state = await site.ended(id_)
    assert (state.state, state.attempt, state.error["kind"]) == ("failed", 1, "load")
    assert "runs on Node.js" in state.error["message"]


async def test_pdb_is_not_for_javascript(site: Site) -> None:
    worker = site.worker(DOUBLE, "nopdb.mjs")
    id_ = await site.queue(worker, 4)
    for words in ((worker,), ("--context", str(id_))):
        done = await site.damad("run", *words, "--pdb")
        assert done.code == 2
        assert "--debug" in done.err
    assert (await site.state(id_)).state == "queued"


async def test_debug_has_node_wait_for_a_client_and_stops_again_before_main(site: Site) -> None:
    with the_port():
        async with site.command("run", site.worker(DOUBLE, "debugged.mjs"), "--payload", "4", "--debug") as command:
            assert command.stderr is not None
            address = ""
            async with asyncio.timeout(SOON):
                while "ws://" not in address:
                    address = (await command.stderr.readline()).decode()
                stops = await step_through("ws://" + address.split("ws://")[1].strip())
                out, _ = await command.communicate()
    assert (command.returncode, json.loads(out)) == (0, {"double": 8})
    assert stops == [("node_shim.mjs", ""), ("node_shim.mjs", "run")]


async def step_through(address: str) -> list[tuple[str, str]]:
    """Says what an editor says to attach, in the Chrome DevTools Protocol; the files and functions where it stopped."""
    stops, files = [], {}
    async with aiohttp.ClientSession() as http, http.ws_connect(address) as inspector:
        for number, method in enumerate(["Debugger.enable", "Runtime.enable", "Runtime.runIfWaitingForDebugger"]):
            await inspector.send_json({"id": number, "method": method})
        async for message in inspector:
            said: dict[str, Any] = json.loads(message.data)
            if said.get("method") == "Debugger.scriptParsed":
                files[said["params"]["scriptId"]] = said["params"]["url"].rpartition("/")[2]
            elif said.get("method") == "Debugger.paused":
                top = said["params"]["callFrames"][0]
                stops.append((files[top["location"]["scriptId"]], top["functionName"]))
                await inspector.send_json({"id": 9, "method": "Debugger.resume"})
            elif said.get("method") == "Runtime.executionContextDestroyed":
                break
    return stops
