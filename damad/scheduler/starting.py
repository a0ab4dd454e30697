"""Starts what is claimed: a coroutine of this process, or a process of its own by whichever way there is."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from damad import config, logs
from damad.eventstore.pools import Database
from damad.eventstore.store import Assignment, EventStore
from damad.model import settings, trace
from damad.runner import indaemon
from damad.runner.attempt import Attempt, Claim
from damad.scheduler import launcher
from damad.scheduler.observation import Key, Observer
from damad.scheduler.reporting import Reporter
from damad.scheduler.runners import Preload, Runners

log = structlog.get_logger()


class Starter:
    """Starts the runs of one supervisor. reporters: by run, who hears what a process says over its line.

    rules: how a queue runs here · terminal: nothing runs in this process · debug: a name of runner/debugging.py,
    for the run that stays on the terminal.
    """

    def __init__(
        self,
        database: Database,
        settings_: config.Config,
        host_id: str,
        observer: Observer,
        *,
        runners: Runners | None,
        terminal: bool,
        debug: str | None,
        rules: Callable[[str], config.Queue],
        wake: Callable[[], None],
        look_now: Callable[[], None],
    ) -> None:
        self._database = database
        self._config = settings_
        self._host_id = host_id
        self._observer = observer
        self._rules = rules
        self._wake = wake
        self._look_now = look_now
        self._runners = runners
        self._terminal = terminal
        self._debug = debug
        self.reporters: dict[Key, Reporter] = {}

    def start(self, task: Assignment, group: asyncio.TaskGroup, *, stays: bool) -> None:
        """Starts a claimed task in the group. stays: on the terminal, where there is one."""
        key = task.etl_context_id, task.fence
        rules = self._rules(task.queue)
        claim = self._claim_of(task, rules.shared)
        if (settings.decode_one("run_in", task.settings) or rules.run_in) == "daemon" and not self._terminal:
            log_path = partial(logs.path, claim.state_dir, claim.pg_env, task.etl_context_id, task.attempt)
            attempt, reporter = Attempt(claim, self._database, task), self._reporter(key)
            running = group.create_task(_guarded(indaemon.run(attempt, log_path, grace=self._config.grace)))
            running.add_done_callback(lambda _: reporter.ended(concluded=attempt.concluded))
            self._observer.runs_here(key, running)
            return
        stays = stays and self._terminal
        self._observer.starting(key, True)
        assignment = launcher.assign(
            claim, task, database=self._database, settings=self._config,
            terminal=stays, debug=self._debug if stays else None,
        )  # fmt: skip
        group.create_task(self._launch(key, assignment, rules.preload))

    def forget(self, key: Key, *, lost: bool) -> None:
        """The run is over and on the log. `lost`: nobody put its end on record, so its line may hang as well."""
        reporter = self.reporters.pop(key, None)
        if reporter is not None and lost and self._runners is not None:
            self._runners.hang_up(reporter)

    def _reporter(self, key: Key) -> Reporter:
        self.reporters[key] = reporter = Reporter(key, EventStore(self._database), self._wake, self._look_now)
        return reporter

    async def _launch(self, key: Key, assignment: launcher.Assignment, preload: Preload) -> None:
        try:
            if self._runners is None:
                await launcher.launch(assignment)
            else:
                await launcher.launch_forked(assignment, self._runners, self._reporter(key), preload)
        except OSError as error:
            of = trace.said({trace.KEY: assignment.environment.get(trace.KEY.upper())})
            log.error("a runner could not be started", etl_context_id=key[0], reason=str(error), **of)
        finally:
            self._observer.starting(key, False)
            self._wake()

    def _claim_of(self, task: Assignment, shared: bool) -> Claim:
        return Claim(
            pg_env=self._database.pg_env,
            etl_context_id=task.etl_context_id,
            fence=task.fence,
            host_id=self._host_id,
            state_dir=self._config.state_dir,
            worker_roots=self._config.worker_roots,
            queues=self._config.queues,
            lease=self._config.lease,
            max_result=self._config.max_body,
            shared=shared,
            wait_in_process=self._config.wait_in_process,
            log_format=self._config.log_format,
            otel=self._config.otel,
        )


async def _guarded(coroutine: Awaitable[None]) -> None:
    """A run of a worker never ends the group that it runs in: what is not on the log then, the supervisor sees."""
    try:
        await coroutine
    except Exception:
        log.exception("a run in the daemon ended without a word")
