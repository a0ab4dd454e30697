"""Starts the process of a claimed task: a parent of a fork server does (runners.py), or one that asyncio starts for
this run alone and that detaches (damad/runner/parent.py). Either is told the same and does the same."""

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import orjson
import structlog

from damad import config, failpoints, logs
from damad.eventstore.pools import Database
from damad.eventstore.store import Assignment as Task
from damad.model import trace
from damad.model.json_value import Unreadable
from damad.runner import records
from damad.runner.attempt import Claim
from damad.scheduler.runners import Handler, Preload, Runners

log = structlog.get_logger()


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """What the runner's parent is told. It travels in an anonymous file, for it holds the DSN.

    task: what the log says of it (None: what nobody can read, and the run shall see for itself) · asked_at:
    time.monotonic() when the log said so, the same in every process of a machine · log: the attempt's log file ·
    terminal: leave the worker on this terminal, too · debug: a name of runner/debugging.py · pooled: whether the DSN
    leads to a pooler, which costs a connection less to be told than to ask.
    """

    claim: Claim
    attempt: int
    task: Task | None
    asked_at: float
    dsn: str
    pooled: bool | None
    run: Path
    log: Path
    terminal: bool
    log_limit: int
    state_dir: Path
    embedded: bool
    environment: dict[str, str]
    debug: str | None = None


def assign(
    claim: Claim, task: Task, *, database: Database, settings: config.Config, terminal: bool, debug: str | None
) -> Assignment:
    """The assignment of one run under a claim, of a task as the log just described it."""
    initial, attempt = task.initial_event, task.attempt
    readable = not (isinstance(initial.payload, Unreadable) or isinstance(initial.meta, Unreadable))
    environment = config.child_environment() | {
        "AVAIL_DAMA_PG_ENV": claim.pg_env,
        "AVAIL_DAMA_ETL_CONTEXT_ID": str(claim.etl_context_id),
        "DAMAD_ATTEMPT": str(attempt),
    }
    if (traceparent := claim.traceparent(initial)) is not None:
        environment[trace.KEY.upper()] = traceparent
    return Assignment(
        claim=claim,
        attempt=attempt,
        task=task if readable else None,
        asked_at=time.monotonic(),
        dsn=database.dsn,
        pooled=database.sessions.pooled,
        run=records.folder(settings.state_dir, claim.pg_env, claim.etl_context_id, claim.fence),
        log=logs.path(settings.state_dir, claim.pg_env, claim.etl_context_id, attempt),
        terminal=terminal,
        log_limit=settings.log_limit,
        state_dir=settings.state_dir,
        embedded=settings.embedded,
        environment=environment,
        debug=debug,
    )


async def launch(assignment: Assignment) -> None:
    """Starts a runner's parent for this run alone. Returns once that is on record or has failed to start; the records
    say which. On the terminal it returns when the worker's process has ended.
    """
    fd = _described(assignment)
    try:
        await _spawn(assignment, fd)
    finally:
        os.close(fd)


async def launch_forked(assignment: Assignment, runners: Runners, handler: Handler, preload: Preload) -> None:
    """`launch`, by a fork where there is a fork server. preload: modules that it has imported."""
    fd = _described(assignment)
    try:
        if await runners.launch(fd, handler, preload=preload):
            failpoints.hit("supervisor.launched")
        else:
            await _spawn(assignment, fd)
    finally:
        os.close(fd)


def _described(assignment: Assignment) -> int:
    """The file that describes a run, for whose records there is a folder now."""
    assignment.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    failpoints.hit("supervisor.launching")
    return _anonymous_file(orjson.dumps(msgspec.to_builtins(assignment, enc_hook=_as_text)))


async def _spawn(assignment: Assignment, fd: int) -> None:
    detached = not assignment.terminal
    errors = os.open(records.parent_log(assignment.run), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "damad.runner.parent", str(fd),
            stdin=asyncio.subprocess.DEVNULL if detached else None,
            stdout=errors if detached else sys.stderr.fileno(),
            stderr=errors if detached else None,
            env=failpoints.environment() | assignment.environment,
            pass_fds=(fd,),
            start_new_session=detached,
        )  # fmt: skip
    finally:
        os.close(errors)
    exit_code = await process.wait()
    failpoints.hit("supervisor.launched")
    if exit_code != 0:
        log.error(
            "a runner did not come up", run=str(assignment.run), exit_code=exit_code, said=_last_words(assignment.run)
        )


def _anonymous_file(content: bytes) -> int:
    fd = os.memfd_create("damad-assignment")
    os.write(fd, content)
    return fd


def _as_text(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be sent to a runner")


def _last_words(run: Path) -> str:
    try:
        return records.parent_log(run).read_text(errors="replace").strip()[-500:]
    except OSError:
        return ""
