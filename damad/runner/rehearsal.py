"""A run that nobody asked for, gone through before the first one is forked.

Python writes beside its code as it runs it: for which types an instruction is specialised, where a method was found.
What was written before a fork all processes share; what is written after it each of them copies, page by page. So this
costs a fork server some milliseconds, and saves every process that it forks as much, and memory.
"""

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from damad.eventstore.uuids import new_uuid
from damad.runner import child, line, load, rehearsed

TIMES: Final = 20
"""Code is specialised once it ran eight times, one instruction after the other (PEP 659)."""


def rehearse() -> None:
    """Goes through a run of a worker that does nothing. Outside of this process nothing comes of it."""
    path, assignment = sys.path[:], json.dumps(_assignment())
    try:
        for _ in range(TIMES):
            said = child.Run(json.loads(assignment)).rehearse()
            line.encode(line.Say(1, said, conclusion=False))
    finally:
        sys.path[:] = path
        sys.modules.pop(load.module_name(Path(rehearsed.__file__)), None)


def _assignment() -> dict[str, Any]:
    worker, now = Path(rehearsed.__file__), datetime.now(UTC).isoformat()
    initial = {
        "event_id": 1, "etl_context_id": 1, "version": 1, "event_uuid": str(new_uuid()), "type": ":INITIAL",
        "payload": {}, "meta": {}, "error": False, "_created_timestamp": now,
    }  # fmt: skip
    task = {
        "etl_context_id": 1, "parent_context_id": None, "queue": "default", "worker": worker.name, "state": "running",
        "fence": 1, "attempt": 1, "errors": 0, "crashes": 0, "settings": {}, "at": now, "initial_event": initial,
    }  # fmt: skip
    claim = {
        "pg_env": "rehearsal", "etl_context_id": 1, "fence": 1, "host_id": str(new_uuid()), "state_dir": "/",
        "worker_roots": [str(worker.parent)], "queues": {}, "lease": 60.0, "max_result": line.LARGEST,
    }  # fmt: skip
    return {
        "claim": claim, "task": task, "attempt": 1, "dsn": "postgresql:///", "pooled": False, "debug": None,
        "asked_at": time.monotonic(),
    }  # fmt: skip
