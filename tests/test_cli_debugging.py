"""`damad run --pdb` and `--debug`: the same worker, under a debugger on this terminal."""

import asyncio
import fcntl
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from daemon_support import SOON, Site, site_of

from damad.runner.debugging import PORT

DEBUGGED = """
def main(event):
    first = event["payload"] + 1
    second = first * 2
    return {"second": second}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with site_of(tmp_path_factory.mktemp("debugging"), template, DAMAD_GRACE="500ms") as site:
        yield site
        await site.quiet()
        await site.verified()


async def only_task(site: Site) -> int:
    """The id of the newest task."""
    return (await site.store().tasks(limit=1))[0].etl_context_id


async def test_pdb_stops_at_the_first_line_of_main_and_goes_on_as_told(site: Site) -> None:
    script = "p 'payload is', event['payload']\nnext\np 'first is', first\ncontinue\n"
    done = await site.damad("run", site.worker(DEBUGGED), "--payload", "4", "--pdb", stdin=script)
    assert (done.code, done.out) == (0, '{"second":10}\n')
    assert "('payload is', 4)" in done.err
    assert "('first is', 5)" in done.err


@pytest.mark.parametrize(
    "source",
    [
        'def main(event):\n    """What it does."""\n    return {"n": 1}\n',
        "def main(event):\n    # why\n\n    return {'n': 1}\n",
        "def main(\n    event,\n):\n    return {'n': 1}\n",
        "def same(f):\n    return f\n\n@same\n@same\ndef main(event):\n    return {'n': 1}\n",
        "def main(event): return {'n': 1}\n",
        'async def main(event):\n    """What it does."""\n    return {"n": 1}\n',
    ],
    ids=["docstring", "comment", "signature", "decorators", "one line", "async"],
)
async def test_pdb_stops_in_main_however_it_begins(site: Site, source: str) -> None:
    done = await site.damad(
        "run", site.worker(source), "--payload", "4", "--pdb", stdin="p 'is', event['payload']\nc\n"
    )
    assert (done.code, done.json) == (0, {"n": 1})
    assert "('is', 4)" in done.err


async def test_pdb_stops_in_an_async_main_too(site: Site) -> None:
    worker = site.worker("async def main(event):\n    n = 7\n    return {'n': n}\n")
    done = await site.damad("run", worker, "--pdb", stdin="next\np 'n is', n\ncontinue\n")
    assert (done.code, done.json) == (0, {"n": 7})
    assert "('n is', 7)" in done.err


async def test_pdb_stops_where_main_raises_and_then_the_failure_is_recorded(site: Site) -> None:
    worker = site.worker("def main(event):\n    reason = 'seven'\n    raise ValueError(reason)\n")
    done = await site.damad("run", worker, "--pdb", stdin="continue\np 'reason is', reason\nquit\n")
    assert done.code == 1
    assert "('reason is', 'seven')" in done.err
    assert (await site.state(await only_task(site))).error["kind"] == "exception"


@contextmanager
def the_port() -> Iterator[None]:
    """One debugged run at a time on this machine, for the port is always the same."""
    with (Path(tempfile.gettempdir()) / "damad-tests-debug.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


async def test_debug_waits_for_a_client_before_main_is_called(site: Site) -> None:
    pytest.importorskip("debugpy")
    with the_port():
        async with site.command("run", site.worker(DEBUGGED), "--payload", "4", "--debug") as command:
            assert command.stderr is not None
            async with asyncio.timeout(SOON):
                while f":{PORT}".encode() not in await command.stderr.readline():
                    pass
                reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
                await attach(reader, writer)
                out, _ = await command.communicate()
                writer.close()
    assert (command.returncode, json.loads(out)) == (0, {"second": 10})


async def attach(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says what an editor says to attach, in the Debug Adapter Protocol, until the program may go on."""
    for number, (command, arguments) in enumerate(
        [("initialize", {"adapterID": "test"}), ("attach", {"justMyCode": True}), ("configurationDone", {})], 1
    ):
        if command == "configurationDone":
            await heard(reader, "event", "initialized")
        message = json.dumps({"seq": number, "type": "request", "command": command, "arguments": arguments})
        writer.write(f"Content-Length: {len(message)}\r\n\r\n{message}".encode())
        await writer.drain()


async def heard(reader: asyncio.StreamReader, type_: str, name: str) -> None:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        message = json.loads(await reader.readexactly(int(head.split(b":")[1])))
        if (message["type"], message.get(type_)) == (type_, name):
            return
