"""What became of the processes of this host's runs: from their records, their pids and their start times.

There is no adoption as such. A daemon that begins looks at the same records as one that has run for a month, so a
worker that outlived its daemon is simply seen.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from damad import logs, processes
from damad.eventstore.schedule import HeldTask
from damad.model.retry import Counts
from damad.model.settings import decode
from damad.processes import Process
from damad.runner import records
from damad.scheduler import decisions
from damad.scheduler.clock import Clock
from damad.scheduler.decisions import Observed

Key = tuple[int, int]
"""A run: etl_context_id and fence."""


class Observer:
    """Looks at the processes of one pg_env's runs, wakes the supervisor when one ends, and sends them signals."""

    def __init__(self, state_dir: Path, pg_env: str, clock: Clock, wake: Callable[[], None]) -> None:
        self._state_dir = state_dir
        self._pg_env = pg_env
        self._clock = clock
        self._wake = wake
        self._starting: set[Key] = set()
        self._launched: set[Key] = set()
        self._coroutines: dict[Key, asyncio.Task[None]] = {}
        self._asked: dict[Key, datetime] = {}
        self._asked_for: dict[Key, str] = {}
        self._watched: dict[Key, tuple[Process, int]] = {}
        self._over: set[Key] = set()

    def close(self) -> None:
        """Watches no process any more."""
        for key in list(self._watched):
            self._unwatch(key)

    def folder(self, key: Key) -> Path:
        """Where the records of a run lie."""
        return records.folder(self._state_dir, self._pg_env, *key)

    def known(self) -> set[Key]:
        """Every run that has records here or runs in this process."""
        return {*records.runs(self._state_dir, self._pg_env), *self._starting, *self._coroutines}

    def starting(self, key: Key, begun: bool) -> None:
        """Says that a process is being launched, or that its launch came to an end."""
        (self._starting.add if begun else self._starting.discard)(key)
        self._launched.add(key)

    def over(self, key: Key) -> None:
        """Says that the process of a run has ended, and that its parent, which lives on, has put that on record."""
        self._over.add(key)

    def at_work(self) -> list[Key]:
        """The runs that go on, as the last look at each saw them, less those whose process is stopped."""
        here = [key for key, coroutine in self._coroutines.items() if not coroutine.done()]
        return here + [key for key in self._watched if not any(map(processes.stopped, self._workers(key, None)))]

    def runs_here(self, key: Key, task: "asyncio.Task[None]") -> None:
        """Says that a run is a coroutine of this process."""
        self._coroutines[key] = task

    async def hand_back(self, reason: str, patience: float) -> None:
        """Cancels the runs in this process with that reason, and waits for them to hand their tasks back."""
        running = [task for task in self._coroutines.values() if not task.done()]
        for task in running:
            task.cancel(reason)
        if running:
            await asyncio.wait(running, timeout=patience)

    def look(self, key: Key, started: dict[str, Any] | None = None) -> Observed:
        """What the run's process does. `started`: its STARTED event's payload, which proves as much as a record."""
        process, exit_ = self._look(key, started)
        rival = self._has_rival(key)
        if process == decisions.LOST and not rival and self._left(key, started):  # a rival may have the same log
            process = decisions.LEFT
        asked_at, asked_for = self._asked.get(key), self._asked_for.get(key)
        return Observed(process=process, exit=exit_, asked_at=asked_at, asked_for=asked_for, rival=rival)

    def _has_rival(self, key: Key) -> bool:
        others = [other for other in self.known() if other[0] == key[0] and other != key]
        return any(self._look(other, None)[0] == decisions.ALIVE for other in others)

    def _look(self, key: Key, started: dict[str, Any] | None) -> tuple[str, decisions.Exit | None]:
        if (coroutine := self._coroutines.get(key)) is not None:
            return (decisions.LOST if coroutine.done() else decisions.ALIVE), None
        known = self._known(key, started)
        works = known is not None and processes.alive(known.worker)
        if known is not None and not works:
            processes.send(known.parent, signal.SIGCONT)  # who stopped it would have its worker never be reaped
        ended = self._ended(key)
        if ended is not None and not works:
            return decisions.ENDED, ended
        runs = () if known is None else (known.worker,) if key in self._over else known
        candidates = dict.fromkeys([*runs, *_by_event(started)])
        for process in candidates:
            if self._watch(key, process):
                return decisions.ALIVE, None
        if key in self._starting:
            return decisions.STARTING, None
        if known is None and self._watch_parent(key):
            return decisions.ALIVE, None
        ended = self._ended(key)  # looked at again: it may have been written between the two looks
        if ended is not None:
            return decisions.ENDED, ended
        was_there = candidates or started or key in self._launched
        return (decisions.LOST if was_there else decisions.ABSENT), None

    def _watch_parent(self, key: Key) -> bool:
        """True if the parent of a run lives though no record says who it is: it will say how the worker ended."""
        for parent in processes.writers(records.parent_log(self.folder(key))):
            processes.send(parent, signal.SIGCONT)
            if self._watch(key, parent):
                return True
        return False

    def _left(self, key: Key, started: dict[str, Any] | None) -> set[Process]:
        """What lives of a run whose worker and parent do not: by its mark, its session, and who prints into its log."""
        if key in self._coroutines:
            return set()
        left = set[Process]()
        if self.folder(key).is_dir():  # else it ran in a daemon, whose session is not of this run alone
            for worker in self._workers(key, started):
                left |= {*processes.bearers(worker), *processes.members(worker)}
        attempt = started.get("attempt") if isinstance(started, dict) else None
        if type(attempt) is int:
            left |= {*processes.writers(logs.path(self._state_dir, self._pg_env, key[0], attempt))}
        return left | {child for process in left for child in processes.descendants(process)}

    def _known(self, key: Key, started: dict[str, Any] | None) -> records.Processes | None:
        """Who runs it, by its record. Where the log names another worker the record is not of this run."""
        known, said = records.read_processes(self.folder(key)), _by_event(started)
        return None if known is None or (said and known.worker not in said) else known

    def _workers(self, key: Key, started: dict[str, Any] | None) -> dict[Process, None]:
        known = self._known(key, started)
        return dict.fromkeys([*([known.worker] if known else []), *_by_event(started)])

    def _ended(self, key: Key) -> decisions.Exit | None:
        exit_ = records.read_exit(self.folder(key))
        if exit_ is None:
            return None
        return decisions.Exit(
            exit_.exit_code, exit_.signal, exit_.oom, self._clock.of_host(exit_.ended_at), exit_.out_of_cpu
        )

    def stop(self, key: Key, started: dict[str, Any] | None, *, force: bool, why: str | None = None) -> None:
        """Asks a run to stop, or ends it with everything it left. why: its attempt fails for that reason."""
        if not force:
            self._asked.setdefault(key, self._clock.now())
        if why is not None:
            self._asked_for.setdefault(key, why)
        if (coroutine := self._coroutines.get(key)) is not None:
            coroutine.cancel()
            return
        if force and self._look(key, started)[0] == decisions.LOST:
            targets = self._left(key, started)
        else:
            targets = self._living(key, started, force=force)
        for target in targets:
            processes.send(target, signal.SIGKILL if force else signal.SIGTERM)

    def _living(self, key: Key, started: dict[str, Any] | None, *, force: bool) -> set[Process]:
        """The worker and its session, and by force its whole family."""
        known, targets = self._known(key, started), set[Process]()
        for worker in self._workers(key, started):
            targets |= {worker, *processes.members(worker), *(processes.descendants(worker) if force else ())}
        if force and known is not None and key not in self._over:
            targets |= {*processes.descendants(known.parent)}
        return targets

    def forget(self, key: Key) -> None:
        """The run is over and on the log: its records are not needed any more."""
        self._unwatch(key)
        self._asked.pop(key, None)
        self._asked_for.pop(key, None)
        self._launched.discard(key)
        self._over.discard(key)
        if self._coroutines.pop(key, None) is None:  # a coroutine has none
            shutil.rmtree(self.folder(key), ignore_errors=True)

    def _watch(self, key: Key, process: Process) -> bool:
        """True if the process lives; then its end wakes the supervisor."""
        watched = self._watched.get(key)
        if watched is not None and watched[0] == process:
            return processes.alive(process)
        pidfd = processes.open_pidfd(process)
        if pidfd is None:
            return False
        self._unwatch(key)
        self._watched[key] = (process, pidfd)
        asyncio.get_running_loop().add_reader(pidfd, self._ended_now, key)
        return True

    def _ended_now(self, key: Key) -> None:
        self._unwatch(key)
        self._wake()

    def _unwatch(self, key: Key) -> None:
        if (watched := self._watched.pop(key, None)) is not None:
            asyncio.get_running_loop().remove_reader(watched[1])
            os.close(watched[1])


def _by_event(started: dict[str, Any] | None) -> list[Process]:
    """The process that a STARTED event names, unless it is this one: what runs here is known by its coroutine."""
    if not isinstance(started, dict):
        return []
    process = processes.named(started.get("pid"), started.get("start_time"), started.get("boot_id"))
    return [process] if process is not None and process.pid != os.getpid() else []


def held_task(task: HeldTask, me: str, host_id: str, *, back_since: datetime | None = None) -> decisions.Held:
    """A task that this host holds, as the log says, and whether who claimed it is dead.

    back_since: when Postgres came back, where it was away: who could not say meanwhile that it goes on was not silent.
    """
    beats = [at for at in (task.beaten_at, back_since) if at is not None]
    claimer = processes.from_holder(task.holder, host_id) if task.holder and task.holder != me else None
    return decisions.Held(
        etl_context_id=task.etl_context_id,
        queue=task.queue,
        state=task.state,
        fence=task.fence,
        attempt=task.attempt,
        counts=Counts(task.errors, task.crashes),
        settings=decode(task.settings),
        waiting=task.waiting,
        ours=task.holder == me,
        claimer_dead=claimer is not None and not processes.alive(claimer),
        lease_over=task.lease_over is not False,
        cancel_wanted=task.cancel_wanted,
        terminate=task.terminate,
        started_at=task.started_at,
        beaten_at=max(beats) if task.beaten_at is not None else None,
    )
