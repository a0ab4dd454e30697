"""damad's own loop, for code that has none: sync code, threads, what a fork leaves behind, and what breaks it."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from textwrap import dedent
from typing import Any

import msgspec
import pytest

from damad import background, context, events
from damad.context import EtlContext
from damad.errors import IllegalTransition, InvalidInput, NoContext
from damad.eventstore.pools import Database

Here = Callable[..., AbstractContextManager[EtlContext]]

LONGEST = 60.0
"""Seconds after which what should have ended hangs."""

OF_A_CONTEXT = """
import os, sys
from damad import background, context, events
from damad.context import EtlContext
from damad.eventstore.pools import Database

def say(type_):
    return events.dispatch_sync({"type": type_})

ctx = EtlContext(pg_env="local", etl_context_id=int(sys.argv[2]), database=Database("local", sys.argv[1]))
with context.run_in(ctx):
"""


@pytest.fixture
async def opened(here: Here) -> int:
    """The id of a context that has its :INITIAL."""
    with here():
        id_ = await events.create_context()
        await events.append(id_, [{"type": ":INITIAL"}])
    return id_


def run(program: str, *arguments: object, indent: str = "", quiet: bool = True) -> str:
    """What a program prints, in a process of its own, for what it does to its files and forks is its own affair.

    quiet: it says nothing on stderr. (A thread whose files are closed may.)
    """
    lines = "".join(f"{indent}{line}" for line in dedent(program).splitlines(keepends=True))
    text = (OF_A_CONTEXT if indent else "") + lines
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", text, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not quiet or done.stderr == ""
    return done.stdout


async def types_of(here: Here, id_: int) -> list[str]:
    with here():
        return [event["type"] for event in await events.read(id_)]


def test_sync_code_gets_the_result_of_a_coroutine() -> None:
    async def add(one: int, other: int) -> int:
        await asyncio.sleep(0)
        return one + other

    assert background.run(add(3, 4)) == 7


@pytest.mark.parametrize("error", [ZeroDivisionError, TimeoutError, background.Broken, InvalidInput], ids=str)
def test_sync_code_gets_what_a_coroutine_raised(error: type[Exception]) -> None:
    async def fail() -> None:
        raise error("said by the coroutine")

    with pytest.raises(error, match="said by the coroutine"):
        background.run(fail())


def test_it_is_one_loop_in_one_thread_that_holds_up_no_exit() -> None:
    async def where() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
        return asyncio.get_running_loop(), threading.current_thread()

    loop, thread = background.run(where())
    assert background.run(where()) == (loop, thread)
    assert loop is background.loop()
    assert thread is not threading.current_thread()
    assert thread.daemon


def test_many_threads_that_ask_first_at_the_same_time_get_one_loop() -> None:
    program = """
    import threading
    from damad import background
    together, loops = threading.Barrier(16), []

    def ask():
        together.wait()
        loops.append(background.loop())

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(len(set(map(id, loops))))
    """
    assert run(program) == "1\n"


def test_a_coroutine_that_waits_holds_up_nobody_else() -> None:
    async def both_wait(barrier: asyncio.Barrier) -> None:
        async with asyncio.timeout(LONGEST):
            await barrier.wait()

    barrier = asyncio.Barrier(2)
    threads = [threading.Thread(target=background.run, args=(both_wait(barrier),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST)
    assert not any(thread.is_alive() for thread in threads)


async def test_sync_code_dispatches_from_its_own_thread_and_from_many_others(here: Here, opened: int) -> None:
    def work() -> list[dict[str, Any]]:
        recorded = [events.dispatch_sync({"type": ":HERE"})]
        threads = [
            threading.Thread(target=lambda: recorded.append(events.dispatch_sync({"type": ":THERE"}))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return recorded

    with here(etl_context_id=opened):
        recorded = await asyncio.to_thread(work)
        assert sorted(recorded, key=lambda event: event["version"]) == (await events.read())[1:]
    assert await types_of(here, opened) == [":INITIAL", ":HERE", *[":THERE"] * 8]


def test_sync_code_that_runs_no_loop_at_all_dispatches(dsn: str) -> None:
    ctx = EtlContext(pg_env="local", database=Database("local", dsn))
    with context.run_in(ctx):
        id_ = background.run(events.create_context())
    with context.run_in(msgspec.structs.replace(ctx, etl_context_id=id_)):
        assert events.dispatch_sync({"type": ":INITIAL"})["version"] == 1
        assert events.dispatch_sync({"type": "x:FINAL", "payload": {"n": 1}})["version"] == 2
        with pytest.raises(IllegalTransition):
            events.dispatch_sync({"type": ":LATE"})
    assert ctx.database is not None
    background.run(ctx.database.close())


async def test_an_async_worker_may_call_sync_code_that_dispatches(here: Here, opened: int) -> None:
    """It holds up the worker's own loop meanwhile, but not damad's."""
    with here(etl_context_id=opened):
        assert events.dispatch_sync({"type": ":HERE"})["version"] == 2


async def test_dispatching_reads_the_context_of_whoever_asks(here: Here, opened: int) -> None:
    with here():
        other = await events.create_context()
    with here(etl_context_id=other):
        events.dispatch_sync({"type": ":INITIAL"})
        with here(etl_context_id=opened):
            events.dispatch_sync({"type": ":INNER"})
        events.dispatch_sync({"type": ":OUTER"})
    assert await types_of(here, opened) == [":INITIAL", ":INNER"]
    assert await types_of(here, other) == [":INITIAL", ":OUTER"]


async def test_parent_and_child_of_a_fork_dispatch_each_on_a_loop_of_its_own(here: Here, dsn: str, opened: int) -> None:
    program = """
    say(":BEFORE")
    for n in range(3):
        if child := os.fork():
            assert os.waitpid(child, 0)[1] == 0
            say(":PARENT")
        else:
            say(":CHILD")
            if grandchild := os.fork():
                assert os.waitpid(grandchild, 0)[1] == 0
            else:
                say(":GRANDCHILD")
            os._exit(0)
    """
    await asyncio.to_thread(run, program, dsn, opened, indent="    ")
    assert await types_of(here, opened) == [":INITIAL", ":BEFORE", *[":CHILD", ":GRANDCHILD", ":PARENT"] * 3]


async def test_a_fork_while_others_dispatch_leaves_neither_side_stuck(here: Here, dsn: str, opened: int) -> None:
    program = """
    import threading
    threads = [threading.Thread(target=lambda: [say(":PARENT") for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    children = []
    for n in range(5):
        if child := os.fork():
            children.append(child)
        else:
            say(":CHILD")
            os._exit(0)
    for thread in threads:
        thread.join()
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 5
    """
    await asyncio.to_thread(run, program, dsn, opened, indent="    ")
    assert sorted(await types_of(here, opened)) == [":CHILD"] * 5 + [":INITIAL"] + [":PARENT"] * 80


def test_multiprocessing_by_fork_has_it_too() -> None:
    program = """
    import asyncio, multiprocessing
    from damad import background

    def square(n):
        return background.run(asyncio.sleep(0, n * n))

    assert square(2) == 4
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(square, range(5)))
    """
    assert run(program) == "[0, 1, 4, 9, 16]\n"


def test_when_its_files_are_closed_whoever_asks_next_is_told() -> None:
    program = """
    import asyncio, os
    from damad import background
    background.run(asyncio.sleep(0))
    os.closerange(3, 256)
    try:
        background.run(asyncio.sleep(0))
    except background.Broken as broken:
        print("broken:", broken, flush=True)
    os._exit(0)
    """
    assert "closed" in run(program, quiet=False)


def test_when_its_files_are_closed_meanwhile_whoever_waits_is_told() -> None:
    program = """
    import asyncio, os, threading
    from damad import background

    async def for_ever():
        began.set()
        await asyncio.Event().wait()

    def ask():
        try:
            background.run(for_ever())
        except background.Broken:
            print("broken", flush=True)

    began = threading.Event()
    thread = threading.Thread(target=ask)
    thread.start()
    began.wait()
    os.closerange(3, 256)
    thread.join()
    os._exit(0)
    """
    assert run(program, quiet=False) == "broken\n"


@pytest.mark.parametrize("another", ["os.open(os.devnull, os.O_RDONLY)", "select.epoll()", "socket.socket()"])
def test_when_another_file_took_the_place_of_its_own_whoever_asks_is_told(another: str) -> None:
    program = """
    import asyncio, os, select, socket
    from damad import background
    background.run(asyncio.sleep(0))
    os.closerange(3, 256)
    others = [ANOTHER for _ in range(20)]
    try:
        background.run(asyncio.sleep(0))
    except background.Broken:
        print("broken", flush=True)
    os._exit(0)
    """
    assert run(program.replace("ANOTHER", another), quiet=False) == "broken\n"


def test_a_broken_loop_is_mended_in_a_child_that_is_forked_from_it() -> None:
    program = """
    import asyncio, os
    from damad import background
    background.run(asyncio.sleep(0))
    os.closerange(3, 256)
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
    else:
        print(background.run(asyncio.sleep(0, "runs")), flush=True)
    os._exit(0)
    """
    assert run(program, quiet=False) == "runs\n"


def test_outside_of_any_context_dispatching_says_so_and_the_loop_lives_on() -> None:
    with pytest.raises(NoContext):
        events.dispatch_sync({"type": ":LOST"})
    assert background.run(asyncio.sleep(0, 1)) == 1
