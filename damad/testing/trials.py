"""Runs workers in the process of their test, each attempt under a claim of its own, as a runner would.

What is different from a process of its own: a worker that ends its process ends the tests, and one that waits for ever
is not ended. Time is that of Postgres, which nobody sets: what is due later is run at once, for it is run by hand.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from damad import background, config, context, processes, statefolder, tasks
from damad.errors import Conflict
from damad.eventstore.pools import Database
from damad.eventstore.schedule import Schedule
from damad.eventstore.store import EventStore, TaskState
from damad.model.event import TASK_PREFIX, RecordedEvent
from damad.runner import child, node
from damad.runner.attempt import Attempt, Claim
from damad.testing.server import PG_ENV

T = TypeVar("T")

_LEASE: Final = 86_400.0
"""Seconds. Nobody else claims here."""
_NOT_RUN_YET: Final = ("queued", "scheduled", "retrying")
_LOOK_INTERVAL: Final = 0.02


class Trial(NamedTuple):
    """What became of a worker that was run: the state of its task, and every event of its context."""

    state: TaskState
    events: list[RecordedEvent]

    @property
    def etl_context_id(self) -> int:
        """The context of the task."""
        return self.state.etl_context_id

    @property
    def result(self) -> Any:
        """The payload of its :FINAL. An AssertionError that says how it failed where there is none."""
        if self.state.state != "done":
            error = self.state.error or {}
            said = error.get("traceback") or error.get("message")
            raise AssertionError(f"the task is {self.state.state} ({error.get('kind')}): {said}")
        return self.events[-1].payload

    @property
    def error(self) -> dict[str, Any]:
        """How its last attempt failed: `kind`, `message`, `traceback`, … An AssertionError where it did not."""
        failed = [event.payload for event in self.events if event.type == "dama/task:ERROR"]
        if not failed or self.state.state == "done":
            raise AssertionError(f"the task is {self.state.state}; its events: {[event.type for event in self.events]}")
        last: dict[str, Any] = failed[-1]
        return last

    def payloads(self, type_: str) -> list[Any]:
        """The payloads of its events of that type."""
        return [event.payload for event in self.events if event.type == type_]

    def assert_events(self, *types: str) -> None:
        """Asserts that these are the worker's own events after its :INITIAL, in this order; damad's do not count."""
        own = [event.type for event in self.events[1:] if not event.type.startswith(TASK_PREFIX)]
        assert own == list(types), f"the worker's events are {own}"


class Trials:
    """Runs workers on one database. `folder`: the state folder of the host that they think they are on.

    wait_in_process: seconds; with 0, each wait ends the run, and `main` runs again from its start when it is over.
    """

    wait_in_process = 5.0

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self._folder = folder
        self._host_id = statefolder.make_host_id(folder)
        self._store, self._schedule = EventStore(database), Schedule(database, self._host_id)
        self._roots: tuple[Path, ...] = ()

    @property
    def dsn(self) -> str:
        """Where the worker's rows are."""
        return self.database.dsn

    @contextmanager
    def here(self, etl_context_id: int | None = None) -> Iterator[context.EtlContext]:
        """Code inside is on the same database, in the context named: to call `events` and `tasks` from a test."""
        host = context.Host(host_id=self._host_id, state_dir=self._folder, worker_roots=self._roots)
        ambient = context.EtlContext(pg_env=PG_ENV, etl_context_id=etl_context_id, database=self.database, host=host)
        with context.run_in(ambient) as entered:
            yield entered

    def run_worker(self, path: str | Path, payload: Any = None, **given: Any) -> Trial:
        """Queues a task for a worker, runs it here once, and says what became of it.

        given: task settings (`retry_limit` is 0 unless it says so), `initial_event`, `parent_context_id`, `meta`.
        Its subtasks run too, each in a thread. Raises InvalidWorker and InvalidInput, as queueing does.
        """
        worker = Path(path).resolve()
        self._roots = tuple(dict.fromkeys([*self._roots, worker.parent]))
        with self.here():
            queued = background.run(tasks.queue(str(worker), payload, **{"retry_limit": 0, **given}))
        return self._trial(queued)

    def run_again(self, trial: Trial) -> Trial:
        """The next run of a task that failed, or whose wait is over: the same context, with what it recorded before.

        Raises IllegalTransition for a task that is done, or waits still.
        """
        with self.here():
            if trial.state.state in ("failed", "cancelled"):
                background.run(tasks.retry(trial.etl_context_id))
        self._resumed(trial.etl_context_id)
        return self._trial(trial.etl_context_id)

    def _trial(self, etl_context_id: int) -> Trial:
        with _as_if_imported_by_nobody(self._roots):
            self._run(etl_context_id)
        state = background.run(self._store.state(etl_context_id))
        assert isinstance(state, TaskState)
        return Trial(state, background.run(self._store.read(etl_context_id)))

    def _run(self, etl_context_id: int) -> None:
        """Runs a task once, and again each time that it ended to wait and the wait is over."""
        while True:
            with self._subtasks_run(etl_context_id):
                _off_the_loop(lambda: self._attempt(etl_context_id))
            if not self._resumed(etl_context_id):
                return

    def _resumed(self, etl_context_id: int) -> bool:
        return bool(background.run(self._schedule.resume(shared=[], only=[etl_context_id])))

    def _attempt(self, etl_context_id: int) -> None:
        """Does around `main` what the worker's process does: claim, begin, call, conclude."""
        holder = processes.as_holder(processes.myself(), self._host_id)
        background.run(self._schedule.claim_one(etl_context_id, holder=holder, lease=_LEASE))
        task = background.run(self._store.assignment(etl_context_id))
        settings = config.Config(state_dir=self._folder)
        claim = Claim(
            pg_env=PG_ENV, etl_context_id=etl_context_id, fence=task.fence, host_id=self._host_id,
            state_dir=self._folder, worker_roots=self._roots, queues={}, lease=_LEASE, max_result=settings.max_body,
            wait_in_process=self.wait_in_process,
        )  # fmt: skip
        attempt = Attempt(claim, self.database, task)
        background.run(attempt.begin())
        try:
            result = child.run_main(attempt)
        except node.Ended as end:
            result = end.failure(attempt.number)
        background.run(attempt.conclude(result))

    @contextmanager
    def _subtasks_run(self, parent: int) -> Iterator[None]:
        over = threading.Event()
        running = threading.Thread(target=self._run_subtasks, args=(parent, over), name="damad subtasks")
        running.start()
        try:
            yield
        finally:
            over.set()
            running.join()

    def _run_subtasks(self, parent: int, over: threading.Event) -> None:
        """Runs what the worker queues, until it has ended and all that it queued has, or waits."""
        runs: dict[int, threading.Thread] = {}
        refused: set[int] = set()

        def run(id_: int) -> None:
            try:
                self._run(id_)
            except Conflict:  # somebody else had it go on: the test, say
                refused.add(id_)

        while True:
            last = over.is_set()
            there = background.run(self._store.tasks(states=_NOT_RUN_YET, parent_context_id=parent))
            living = {id_ for id_, thread in runs.items() if thread.is_alive()}
            new = {task.etl_context_id for task in there} - living - refused
            for id_ in sorted(new):
                runs[id_] = threading.Thread(target=run, args=(id_,), name=f"damad {id_}")
                runs[id_].start()
            if last and not new and not living:
                return
            time.sleep(_LOOK_INTERVAL)


def _off_the_loop(call: Callable[[], T]) -> T:
    """The result of a call that may run a loop of its own: in a thread, where this one has a loop already."""
    if not _has_a_loop():
        return call()
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


def _has_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextmanager
def _as_if_imported_by_nobody(roots: tuple[Path, ...]) -> Iterator[None]:
    """What a worker imports from beside it is imported anew by the next one, as in a process of its own."""
    path, known = list(sys.path), set(sys.modules)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - known:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and any(Path(file).is_relative_to(root) for root in roots):
                del sys.modules[name]
