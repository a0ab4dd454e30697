"""The ambient context: set once around `main`, seen by all code that `main` calls.

In tasks and `asyncio.to_thread` that is what contextvars do by themselves. Threads begin with an empty context before
Python 3.14, so the first `run_in` of a process teaches `threading.Thread` and `ThreadPoolExecutor` to carry the
context of whoever starts them: what Python does itself where `sys.flags.thread_inherit_context` is set.
"""

import atexit
import contextvars
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from damad import config
from damad.errors import NoContext, NotFound
from damad.eventstore.embedded import EmbeddedPostgres
from damad.eventstore.pools import Database
from damad.eventstore.store import EventStore
from damad.model import trace
from damad.model.memory import Memory

T = TypeVar("T")

_current: contextvars.ContextVar["EtlContext"] = contextvars.ContextVar("damad_context")


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """Where code runs: a state folder with its id, the worker roots, and how the queues are configured here."""

    host_id: str | None = None
    state_dir: Path | None = None
    worker_roots: tuple[Path, ...] = ()
    queues: dict[str, config.Queue] = {}

    @classmethod
    def configured(cls, settings: config.Config, host_id: str | None = None) -> Self:
        """The host that a configuration describes. Its id lies in its state folder: statefolder.py."""
        return cls(
            host_id=host_id,
            state_dir=settings.state_dir,
            worker_roots=settings.worker_roots,
            queues=settings.queues,
        )

    def queue(self, name: str) -> config.Queue:
        """The configuration of a queue, also of one that no one configured."""
        return self.queues.get(name) or config.Queue()


class EtlContext(msgspec.Struct, frozen=True, kw_only=True):
    """What code knows about where it runs. Outside a task, `etl_context_id` may be None: then only pg_env is known.

    fence: the claim under which this run appends, None outside a run · work_dir: the task's folder, if it has one ·
    traceparent: the trace that this belongs to, and what is queued here too (model/trace.py) · database, host: resolved
    from the configuration where they are not given · memory: of a run, for its waits · actor: who asks over HTTP, which
    stands in the meta of what they append.
    """

    pg_env: str
    etl_context_id: int | None = None
    parent_context_id: int | None = None
    attempt: int | None = None
    fence: int | None = None
    queue: str | None = None
    initial_event: dict[str, Any] | None = None
    work_dir: Path | None = None
    traceparent: str | None = None
    database: Database | None = None
    host: Host | None = None
    memory: Memory | None = None
    actor: str | None = None

    @property
    def logger(self) -> "logging.LoggerAdapter[logging.Logger]":
        """A logger that names the context; in a worker process it writes to the attempt's log file."""
        return logging.LoggerAdapter(logging.getLogger("damad.worker"), {"etl_context_id": self.etl_context_id})

    @property
    def store(self) -> EventStore:
        """The event store of this pg_env."""
        return EventStore(self.database or _database(self.pg_env), actor=self.actor)

    @property
    def here(self) -> Host:
        """The host that this code runs on."""
        return self.host or _host()


def current() -> EtlContext:
    """The context of the code that asks. Raises NoContext outside of `main` and of `run_in`."""
    try:
        return _current.get()
    except LookupError:
        raise NoContext(
            "there is no ambient context here; enter one with damad.context.run_in(EtlContext(...))"
        ) from None


def log_fields() -> dict[str, Any]:
    """What a log line says of where it is written: pg_env, etl_context_id, attempt and trace_id, as far as they are."""
    here = _current.get(None)
    if here is None:
        return {}
    trace_id = None if here.traceparent is None else trace.trace_id(here.traceparent)
    known = {"pg_env": here.pg_env, "etl_context_id": here.etl_context_id, "attempt": here.attempt}
    return {name: value for name, value in (known | {"trace_id": trace_id}).items() if value is not None}


def current_id() -> int:
    """The id of the current context. Raises NoContext also where only the pg_env is known."""
    etl_context_id = current().etl_context_id
    if etl_context_id is None:
        raise NoContext("there is a pg_env here but no EtlContext; name one by its etl_context_id")
    return etl_context_id


@contextmanager
def run_in(context: EtlContext) -> Iterator[EtlContext]:
    """Code inside runs in `context`: what it calls, the tasks and the threads that it starts."""
    _carry_into_threads()
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


def enter(context: EtlContext) -> None:
    """The rest of the current asyncio task runs in `context`: for a request, which has a task of its own."""
    _carry_into_threads()
    _current.set(context)


@cache
def _database(pg_env: str) -> Database:
    """The database of a pg_env out of the configuration, for code that was given none. One a process."""
    settings = config.load()
    if settings.embedded and pg_env == config.EMBEDDED:
        server = EmbeddedPostgres(settings.state_dir)
        server.join()
        atexit.register(server.leave)
        return Database(pg_env, server.dsn)
    if pg_env not in settings.pg_envs:
        known = ", ".join(sorted(settings.pg_envs)) or config.EMBEDDED
        raise NotFound(f"there is no pg_env {pg_env!r}; configured: {known}", pg_env=pg_env)
    return Database(pg_env, settings.pg_envs[pg_env])


@cache
def _host() -> Host:
    return Host.configured(config.load())


@cache
def _carry_into_threads() -> None:
    """Patches the two ways to start a thread, once a process."""
    start, submit = threading.Thread.start, ThreadPoolExecutor.submit

    @wraps(start)
    def start_in_context(self: threading.Thread) -> None:
        if _current.get(None) is not None and not _serves_an_executor(self):
            inherited, run = contextvars.copy_context(), self.run
            self.run = lambda: inherited.run(run)  # type: ignore[method-assign]
        start(self)

    @wraps(submit)  # type: ignore[arg-type]
    def submit_in_context(self: ThreadPoolExecutor, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        return submit(self, contextvars.copy_context().run, fn, *args, **kwargs)

    threading.Thread.start = start_in_context  # type: ignore[method-assign]
    ThreadPoolExecutor.submit = submit_in_context  # type: ignore[method-assign, assignment]


def _serves_an_executor(thread: threading.Thread) -> bool:
    """An executor's thread serves many callers: each call brings its own context, the thread keeps none."""
    return getattr(getattr(thread, "_target", None), "__module__", "") == "concurrent.futures.thread"
