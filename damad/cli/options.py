"""The options that many commands share."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Where:
    """Which database and which state folder a command is about."""

    pg_env: str | None = None
    "The pg_env; needless where there is one."

    state_dir: Path | None = None
    "The state folder."


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a task."""

    queue: str | None = None
    "The queue that it waits in (default)."

    priority: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    "Higher runs first (0)."

    weight: str | None = None
    "How many slots of its queue it takes while it runs (1)."

    start_after: str | None = None
    "A duration, or an RFC 3339 time with offset."

    retry_limit: str | None = None
    "How often errors, and how often crashes, are retried (2)."

    retry_delay: str | None = None
    "Before the first retry (1s)."

    retry_backoff: Annotated[bool | None, Parameter(negative="--no-retry-backoff")] = None
    "Whether the delay doubles with each failure (true)."

    retry_delay_max: str | None = None
    "The longest delay."

    no_retry: str | None = None
    "Classes of errors and exit codes for which it fails at once: ValueError,7"

    expire_in: str | None = None
    "How long an attempt may take."

    start_by: str | None = None
    "When it fails unless it has begun: a duration, or an RFC 3339 time with offset."

    heartbeat: str | None = None
    "How long its worker may be silent before it is stopped."

    on_failure: str | None = None
    "A worker that is queued with the error if the task fails for good."

    memory_limit: str | None = None
    "The most memory that each of its processes may have: 512MB."

    cpu_limit: str | None = None
    "The most CPU time that each of its processes may use."

    open_files: str | None = None
    "The most files that each of its processes may have open."

    idempotency_key: str | None = None
    "The same key again queues nothing and answers with the first task."

    concurrency_key: str | None = None
    "Its queue may bound how many of the same key run at a time, or begin in which time."

    singleton_key: str | None = None
    "While a task with this key is open, queues nothing and answers with that one."

    debounce: str | None = None
    "Starts so long after the last task with its singleton_key was asked for."

    throttle: str | None = None
    "For so long after a task with its singleton_key was queued, queues nothing and answers with that one."

    work_dir: str | None = None
    "The task's folder."

    run_in: str | None = None
    "process or daemon."

    parent_context_id: int | None = None
    "The context that it is a child of."

    source_id: int | None = None
    "The source that it is about."

    meta: str | None = None
    "JSON for the meta of its first event."

    def given(self) -> dict[str, str]:
        """The task settings that were given, as texts."""
        own = ("parent_context_id", "source_id", "meta")
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in own}
        return {name: _text(value) for name, value in values.items() if value is not None}


Json = Annotated[bool, Parameter(name="--json", negative="")]
"""--json: for programs."""


Payload = Annotated[str | None, Parameter(allow_leading_hyphen=True)]
"""--payload: JSON, which may be a negative number, @FILE, or - for stdin."""


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
