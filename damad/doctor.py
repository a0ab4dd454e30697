"""Looks for what is wrong around the log and says what to do about it: `damad doctor`. It changes nothing."""

import os
import stat
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec

from damad import config, processes, schedules, statefolder
from damad.context import EtlContext
from damad.errors import DamadError
from damad.eventstore import listener
from damad.eventstore.migrate import drift
from damad.runner import records

_MOST_SKEW: Final = 1.0
"""Seconds that the clocks of this host and of Postgres may differ."""
_LISTENER_TIMEOUT: Final = 5.0


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. `advice` says what to do where it is not well."""

    what: str
    well: bool
    detail: str
    advice: str | None = None


async def examine(ambient: EtlContext, settings: config.Config) -> list[Finding]:
    """Looks at everything; what cannot be looked at is a finding too."""
    looks: list[Callable[[EtlContext, config.Config], Awaitable[Finding]]] = [
        _server, _schema, _clock, _listener, _leases, _daemon, _folders, _runs, _roots, _schedules
    ]  # fmt: skip
    findings = []
    for look in looks:
        try:
            findings.append(await look(ambient, settings))
        except DamadError as error:
            name = look.__name__.strip("_")
            findings.append(Finding(name, False, str(error), "mend what is said first, then look again"))
    return findings


async def _server(ambient: EtlContext, _settings: config.Config) -> Finding:
    (row,) = await ambient.store.database.fetch("server")
    major = int(row["version"].split(".")[0])
    advice = None if major >= 14 else "damad needs Postgres 14 or newer"
    return Finding("server", major >= 14, f"Postgres {row['version']}", advice)


async def _schema(ambient: EtlContext, _settings: config.Config) -> Finding:
    found = await drift(ambient.store.database)
    return Finding("schema", found is None, found or "as this damad makes it", found and "run `damad migrate`")


async def _clock(ambient: EtlContext, _settings: config.Config) -> Finding:
    before = time.time()
    (row,) = await ambient.store.database.fetch("server")
    after = time.time()
    skew = row["clock"] - (before + after) / 2
    advice = "let both clocks follow the same time server: tasks go by that of Postgres, log lines by this one"
    well = abs(skew) <= _MOST_SKEW + (after - before) / 2  # it was asked at some moment between the two
    return Finding("clock", well, f"Postgres is {skew:+.3f} s from this host", None if well else advice)


async def _listener(ambient: EtlContext, _settings: config.Config) -> Finding:
    heard = ambient.store.database.listener()
    with heard.subscribe(listener.TASK):
        well = await heard.proves(_LISTENER_TIMEOUT)
    detail = "a NOTIFY comes back" if well else "degraded: no NOTIFY comes back, so damad polls once a second"
    advice = None if well else "give damad a DSN that leads to Postgres itself and not through a pooler of transactions"
    return Finding("listener", well, detail, advice)


async def _leases(ambient: EtlContext, _settings: config.Config) -> Finding:
    if ambient.here.host_id is None:
        return Finding("leases", True, "nothing has run on this state folder yet")
    rows = await ambient.store.database.fetch("stale_leases", UUID(ambient.here.host_id))
    ids = ", ".join(str(row["etl_context_id"]) for row in rows)
    if not rows:
        return Finding("leases", True, "none of this host ran out")
    return Finding("leases", False, f"ran out and were not renewed: contexts {ids}", "start `damad serve` on this host")


async def _daemon(ambient: EtlContext, settings: config.Config) -> Finding:
    """Whether somebody looks after what this host holds."""
    if statefolder.has_daemon(settings.state_dir):
        return Finding("daemon", True, f"one serves {settings.state_dir}")
    if ambient.here.host_id is None:
        return Finding("daemon", True, "none, and nothing has run on this state folder yet")
    rows = await ambient.store.database.fetch("held", UUID(ambient.here.host_id))
    ids = ", ".join(str(row["etl_context_id"]) for row in rows if row["etl_context_id"] is not None)
    if not ids:
        return Finding("daemon", True, "none, and this host holds no task")
    return Finding(
        "daemon", False, f"none, and this host holds tasks: contexts {ids}", "start `damad serve` on this host"
    )


async def _folders(ambient: EtlContext, settings: config.Config) -> Finding:
    """Whether logs and records have where to go."""
    folders = [settings.state_dir / name for name in ("logs", "runs")]
    folders += [folder / ambient.pg_env for folder in folders]
    wrong = [folder for folder in folders if os.path.lexists(folder) and not folder.is_dir()]
    if wrong:
        return Finding(
            "folders", False, f"no folder: {_listed(wrong)}", f"move it away: `damad serve` makes {wrong[0]}"
        )
    return Finding("folders", True, str(settings.state_dir))


async def _runs(ambient: EtlContext, settings: config.Config) -> Finding:
    """Processes that run for a task which does not know them, and records that nobody has tidied up."""
    strays, dead = [], []
    for etl_context_id, fence in records.runs(settings.state_dir, ambient.pg_env):
        found = records.read_processes(records.folder(settings.state_dir, ambient.pg_env, etl_context_id, fence))
        living = [process.pid for process in found or () if processes.alive(process)]
        state = await _fence_of(ambient, etl_context_id)
        if not living:
            dead.append(etl_context_id)
        elif state != fence:
            strays += living
    if strays:
        return Finding(
            "runs", False, f"processes {strays} run for tasks that have gone on", "start `damad serve`: it ends them"
        )
    if dead:
        return Finding("runs", False, f"records of ended runs: contexts {dead}", "start `damad serve`: it reads them")
    return Finding("runs", True, "every run is accounted for")


async def _fence_of(ambient: EtlContext, etl_context_id: int) -> int | None:
    try:
        return getattr(await ambient.store.state(etl_context_id), "fence", None)
    except DamadError:
        return None


async def _roots(_ambient: EtlContext, settings: config.Config) -> Finding:
    missing = [root for root in settings.worker_roots if not root.is_dir()]
    if missing:
        return Finding("worker roots", False, f"not there: {_listed(missing)}", "make it, or set worker_roots")
    open_ = [path for root in settings.worker_roots for path in (root, *root.rglob("*")) if _others_write(path)]
    if open_:
        return Finding("worker roots", False, f"others can write {_listed(open_[:5])}", f"chmod o-w {open_[0]}")
    return Finding("worker roots", True, _listed(settings.worker_roots))


async def _schedules(_ambient: EtlContext, _settings: config.Config) -> Finding:
    """Schedules that plain SQL wrote and that make no task."""
    found = [read.schedule for read in await schedules.page()]
    wrong = {schedule.name: why for schedule in found if (why := schedules.fault(schedule))}
    if not wrong:
        return Finding("schedules", True, f"{len(found)}, each of which can tick")
    detail = "; ".join(f"{name} makes no task: {why}" for name, why in wrong.items())
    name = next(iter(wrong))
    advice = f"mend it with PATCH /schedules/{name}, or `damad schedules remove {name}` and add it again"
    return Finding("schedules", False, detail, advice)


def _others_write(path: Path) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISLNK(mode) and bool(mode & stat.S_IWOTH)


def _listed(paths: Iterable[Path]) -> str:
    return ", ".join(map(str, paths))
