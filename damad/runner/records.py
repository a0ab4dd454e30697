"""The records of a run in the state folder: who runs it, and how it ended. Written by tmp+rename, so never torn.

    runs/<pg_env>/<etl_context_id>.<fence>/process.json    the parent and the worker's process, by proof
    runs/<pg_env>/<etl_context_id>.<fence>/exit.json       how the worker's process ended
    runs/<pg_env>/<etl_context_id>.<fence>/parent.log      what the parent prints: who has it open is the parent

They are not forced to the disk: what a machine forgets when it fails is about processes that failed with it, and a
torn one is none. Whatever stands there all the same (a disk that was full, a copy that was restored, a hand) is read
as no record unless it is one in every part. This module imports little: the runner's parent loads it, one for each
running task.
"""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any, Final, NamedTuple

from damad.processes import Process, named

_RUN: Final = re.compile(r"([1-9][0-9]{0,17})\.([1-9][0-9]{0,17})")
_LATEST: Final = 2.0**37
"""Seconds since the epoch that every calendar still has."""


class Exit(NamedTuple):
    """How a worker's process ended: by an exit code or by a signal. `ended_at` is in seconds since the epoch ·
    out_of_cpu: its CPU time was used up to the end. (Older records do not say.)
    """

    exit_code: int | None
    signal: int | None
    oom: bool
    ended_at: float
    out_of_cpu: bool = False


class Processes(NamedTuple):
    """The two processes of a run."""

    parent: Process
    worker: Process


def folder(state_dir: Path, pg_env: str, etl_context_id: int, fence: int) -> Path:
    """The folder of one run's records."""
    return state_dir / "runs" / pg_env / f"{etl_context_id}.{fence}"


def runs(state_dir: Path, pg_env: str) -> list[tuple[int, int]]:
    """The etl_context_id and fence of every run that has a folder. What else lies there is not ours."""
    try:
        with os.scandir(state_dir / "runs" / pg_env) as entries:
            names = [_RUN.fullmatch(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [(int(name[1]), int(name[2])) for name in names if name]


def parent_log(run: Path) -> Path:
    """Where the parent of a run prints to."""
    return run / "parent.log"


def write_processes(run: Path, processes: Processes) -> None:
    """Says who runs it."""
    _write(run / "process.json", {"parent": processes.parent, "worker": processes.worker})


def write_exit(run: Path, exit_: Exit) -> None:
    """Says how it ended."""
    _write(run / "exit.json", exit_._asdict())


def read_processes(run: Path) -> Processes | None:
    """Who runs it, or None where no record that can be read says so."""
    record = _read(run / "process.json")
    parent, worker = _process(record.get("parent")), _process(record.get("worker"))
    return Processes(parent, worker) if parent and worker else None


def read_exit(run: Path) -> Exit | None:
    """How it ended, or None where no record that can be read says so."""
    record = _read(run / "exit.json")
    if {*record, "out_of_cpu"} != {*Exit._fields}:
        return None
    exit_ = Exit(**record)
    by_code = _is_number(exit_.exit_code, 0, 255) and exit_.signal is None
    by_signal = _is_number(exit_.signal, 1, 64) and exit_.exit_code is None
    timed = type(exit_.ended_at) in (int, float) and 0 <= exit_.ended_at < _LATEST
    said = isinstance(exit_.oom, bool) and isinstance(exit_.out_of_cpu, bool)
    return exit_ if (by_code or by_signal) and timed and said else None


def _process(value: Any) -> Process | None:
    return named(*value) if isinstance(value, list) and len(value) == 3 else None


def _is_number(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _write(path: Path, record: dict[str, Any]) -> None:
    new = path.with_suffix(".new")
    with open(new, "w", encoding="utf-8") as file:
        json.dump(record, file)
    os.rename(new, path)


def _read(path: Path) -> dict[str, Any]:
    """The record; an empty one where it is torn, or what stands there is none."""
    try:
        record = json.loads(_text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _text(path: Path) -> str:
    """What a regular file holds. Raises OSError for all else: to read a FIFO would wait for whoever writes into it."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), encoding="utf-8") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is no regular file")
        return file.read()
