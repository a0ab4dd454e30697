"""The ambient context: set once, seen by all code that is called, and never by anybody else."""

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from damad import background, context
from damad.config import Queue
from damad.context import EtlContext, Host
from damad.errors import NoContext, NotFound

ONE = EtlContext(pg_env="one", etl_context_id=1)
OTHER = EtlContext(pg_env="other", etl_context_id=2)


def seen() -> EtlContext | None:
    try:
        return context.current()
    except NoContext:
        return None


def in_thread(function: Callable[[], Any]) -> Any:
    """What a function returns in a thread of its own."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_outside_of_any_context_there_is_none_and_the_error_says_what_to_do() -> None:
    with pytest.raises(NoContext, match="run_in"):
        context.current()
    with pytest.raises(NoContext):
        context.current_id()


def test_inside_it_is_seen_and_afterwards_no_more() -> None:
    with context.run_in(ONE) as entered:
        assert entered is ONE
        assert (context.current(), context.current_id()) == (ONE, 1)
    assert seen() is None


def test_a_context_in_a_context_hides_it_until_it_ends_even_by_an_exception() -> None:
    with context.run_in(ONE):
        with pytest.raises(ZeroDivisionError), context.run_in(OTHER):
            assert seen() is OTHER
            raise ZeroDivisionError
        assert seen() is ONE


def test_where_only_the_pg_env_is_known_there_is_no_id() -> None:
    with context.run_in(EtlContext(pg_env="one")):
        assert context.current().pg_env == "one"
        with pytest.raises(NoContext, match="etl_context_id"):
            context.current_id()


async def test_tasks_to_thread_and_executors_see_it() -> None:
    loop = asyncio.get_running_loop()

    async def deep() -> EtlContext | None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(asyncio.to_thread(seen))
        return task.result()

    with context.run_in(ONE), ThreadPoolExecutor(1) as pool:
        assert await asyncio.create_task(deep()) is ONE
        assert await asyncio.to_thread(seen) is ONE
        assert await loop.run_in_executor(None, seen) is ONE
        assert await loop.run_in_executor(pool, seen) is ONE
        assert pool.submit(seen).result() is ONE
        assert list(pool.map(lambda _: seen(), range(3))) == [ONE] * 3


def test_threads_see_it_and_the_threads_that_these_start() -> None:
    class Mine(threading.Thread):
        found: EtlContext | None = None

        def run(self) -> None:
            self.found = in_thread(seen)

    with context.run_in(ONE):
        assert in_thread(seen) is ONE
        assert in_thread(lambda: in_thread(seen)) is ONE
        thread = Mine()
        thread.start()
        thread.join()
        assert thread.found is ONE
        assert in_thread(lambda: asyncio.run(asyncio.to_thread(seen))) is ONE


def test_a_timer_that_fires_later_sees_it() -> None:
    found: list[EtlContext | None] = []
    with context.run_in(ONE):
        timer = threading.Timer(0, lambda: found.append(seen()))
        timer.start()
    timer.join()
    assert found == [ONE]


def test_a_thread_sees_the_context_in_which_it_was_started_and_keeps_it() -> None:
    go, found = threading.Event(), []
    with context.run_in(ONE):
        thread = threading.Thread(target=lambda: (go.wait(10), found.append(seen())))
        thread.start()
    with context.run_in(OTHER):
        go.set()
        thread.join()
    assert found == [ONE]


def test_a_thread_of_an_executor_keeps_no_context_for_the_next_caller() -> None:
    with ThreadPoolExecutor(1) as pool:
        with context.run_in(ONE):
            assert pool.submit(seen).result() is ONE
        assert pool.submit(seen).result() is None
        with context.run_in(OTHER):
            assert pool.submit(seen).result() is OTHER
        assert contextvars.Context().run(lambda: pool.submit(seen).result()) is None


def test_a_thread_changes_nothing_for_whoever_started_it() -> None:
    def enter() -> None:
        with context.run_in(OTHER):
            assert seen() is OTHER

    with context.run_in(ONE):
        in_thread(enter)
        assert seen() is ONE


async def test_tasks_at_the_same_time_in_one_process_see_each_their_own() -> None:
    everybody_in = asyncio.Barrier(50)

    async def main(id_: int) -> list[int | None]:
        with context.run_in(EtlContext(pg_env="one", etl_context_id=id_)):
            await everybody_in.wait()
            found = [context.current_id(), await asyncio.to_thread(context.current_id)]
            await everybody_in.wait()
            return [*found, context.current_id()]

    assert await asyncio.gather(*(main(id_) for id_ in range(50))) == [[id_] * 3 for id_ in range(50)]
    assert seen() is None


async def test_tasks_at_the_same_time_start_threads_and_share_a_pool_and_each_sees_its_own() -> None:
    loop, everybody_in = asyncio.get_running_loop(), asyncio.Barrier(20)

    def later() -> int:
        return int(in_thread(context.current_id))

    async def main(id_: int, pool: ThreadPoolExecutor) -> set[int]:
        with context.run_in(EtlContext(pg_env="one", etl_context_id=id_)):
            await everybody_in.wait()
            found = await asyncio.gather(
                *(asyncio.create_task(asyncio.to_thread(later)) for _ in range(3)),
                *(loop.run_in_executor(pool, later) for _ in range(3)),
                *(asyncio.wrap_future(pool.submit(later)) for _ in range(3)),
            )
            return {*found, later()}

    with ThreadPoolExecutor(4) as pool:
        assert await asyncio.gather(*(main(id_, pool) for id_ in range(20))) == [{id_} for id_ in range(20)]
        assert pool.submit(seen).result() is None
    assert seen() is None


async def test_a_task_keeps_the_context_it_was_started_in_after_that_has_ended() -> None:
    go = asyncio.Event()

    async def wait() -> EtlContext | None:
        await go.wait()
        return await asyncio.to_thread(seen)

    with context.run_in(ONE):
        task = asyncio.create_task(wait())
    with context.run_in(OTHER):
        go.set()
        assert await task is ONE


async def test_a_task_that_enters_a_context_changes_nothing_for_whoever_started_it() -> None:
    async def enter() -> None:
        with context.run_in(OTHER):
            await asyncio.sleep(0)
            assert seen() is OTHER

    with context.run_in(ONE):
        await asyncio.create_task(enter())
        assert seen() is ONE


def test_damads_own_loop_runs_in_the_context_of_whoever_asks() -> None:
    async def ask() -> EtlContext | None:
        return seen()

    with context.run_in(ONE):
        assert background.run(ask()) is ONE
    with context.run_in(OTHER):
        assert background.run(ask()) is OTHER
    assert background.run(ask()) is None


def test_a_logger_names_its_context(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="damad.worker"):
        ONE.logger.info("loaded %s rows", 7)
    assert [(record.getMessage(), record.etl_context_id) for record in caplog.records] == [("loaded 7 rows", 1)]  # type: ignore[attr-defined]


def test_a_context_is_never_changed() -> None:
    with pytest.raises(AttributeError):
        ONE.etl_context_id = 7  # type: ignore[misc]


def test_an_unknown_pg_env_is_named_with_those_there_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAMAD_PG_ENV_MAIN_DSN", "postgresql://nowhere/x")
    with pytest.raises(NotFound, match=r"'elsewhere'.*main"):
        _ = EtlContext(pg_env="elsewhere").store


def test_a_queue_that_no_one_configured_has_the_defaults() -> None:
    host = Host(queues={"gpu": Queue(concurrency=1)})
    assert (host.queue("gpu").concurrency, host.queue("other").concurrency) == (1, 4)
