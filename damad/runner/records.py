"""The records of a run in the state folder: who runs it, and how it ended. Written by tmp+rename, so never torn.

    runs/<pg_env>/<etl_context_id>.<fence>/process.json    the parent and the worker's process, by proof
    runs/<pg_env>/<etl_context_id>.<fence>/exit.json       how the worker's process ended

This module imports little: the runner's parent loads it, and there is one parent for each running task.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from damad.processes import Process


class Exit(NamedTuple):
    """How a worker's process ended: by an exit code or by a signal. `ended_at` is in seconds since the epoch."""

    exit_code: int | None
    signal: int | None
    oom: bool
    ended_at: float


class Processes(NamedTuple):
    """The two processes of a run."""

    parent: Process
    worker: Process


def folder(state_dir: Path, pg_env: str, etl_context_id: int, fence: int) -> Path:
    """The folder of one run's records."""
    return state_dir / "runs" / pg_env / f"{etl_context_id}.{fence}"


def runs(state_dir: Path, pg_env: str) -> list[tuple[int, int]]:
    """The etl_context_id and fence of every run that has a folder."""
    try:
        names = os.listdir(state_dir / "runs" / pg_env)
    except FileNotFoundError:
        return []
    pairs = [name.partition(".") for name in names]
    return [(int(id_), int(fence)) for id_, _, fence in pairs if id_.isdigit() and fence.isdigit()]


def write_processes(run: Path, processes: Processes) -> None:
    """Says who runs it."""
    _write(run / "process.json", {"parent": processes.parent, "worker": processes.worker})


def write_exit(run: Path, exit_: Exit) -> None:
    """Says how it ended."""
    _write(run / "exit.json", exit_._asdict())


def read_processes(run: Path) -> Processes | None:
    """Who runs it, or None where no record that can be read says so."""
    record = _read(run / "process.json")
    try:
        return Processes(Process(*record["parent"]), Process(*record["worker"])) if record else None
    except (KeyError, TypeError):
        return None


def read_exit(run: Path) -> Exit | None:
    """How it ended, or None where no record that can be read says so."""
    record = _read(run / "exit.json")
    try:
        return Exit(**record) if record else None
    except TypeError:
        return None


def _write(path: Path, record: dict[str, Any]) -> None:
    new = path.with_suffix(".new")
    with open(new, "w", encoding="utf-8") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(new, path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
