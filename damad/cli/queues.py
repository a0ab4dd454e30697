"""queues: what is in them, and how they run."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any

from cyclopts import Parameter

from damad.cli.options import Json, Settings, Where


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Fields:
    """How a queue runs, on all hosts."""

    concurrency: str | None = None
    "How many of its tasks run at a time on a host."

    global_concurrency: str | None = None
    "How many run at a time over all hosts."

    key_concurrency: str | None = None
    "How many of each concurrency_key run at a time over all hosts."

    rate: str | None = None
    "How many begin in which time, like 100/1m."

    key_rate: str | None = None
    "How many of each concurrency_key begin in which time, like 100/1m."

    aging: str | None = None
    "How long a task waits until its priority counts as one higher, like 10m."

    shared: Annotated[bool | None, Parameter(negative="--no-shared")] = None
    "Whether any host may run its tasks."

    def given(self) -> dict[str, str]:
        """What was given, as texts."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: str(value).lower() for name, value in values.items() if value is not None}


def listed(*, json: Json = False, where: Where | None = None) -> int:
    """List the queues: what is in them and how they run."""
    from damad.cli import session

    return session.go(_listed(json, where or Where()))


async def _listed(json: bool, where: Where) -> int:
    from damad import queues
    from damad.cli import render, session

    async with session.opened(where):
        found = await queues.every()
    render.as_json(found) if json else render.queues(found)
    return 0


def pause(name: str, /, *, json: Json = False, where: Where | None = None) -> int:
    """Take nothing more from a queue; what runs goes on."""
    from damad import queues

    return _change(queues.pause, name, json, where)


def resume(name: str, /, *, json: Json = False, where: Where | None = None) -> int:
    """Take tasks from a queue again."""
    from damad import queues

    return _change(queues.resume, name, json, where)


def set_(
    name: str,
    /,
    *,
    unset: str | None = None,
    json: Json = False,
    fields: Fields | None = None,
    settings: Settings | None = None,
    where: Where | None = None,
) -> int:
    """Set how a queue runs, and the settings of tasks that do not say; makes it if need be.

    Parameters
    ----------
    unset
        What is to be as configured again: names of settings, with commas between.
    """
    from damad import queues
    from damad.errors import InvalidInput
    from damad.model.queue import OF_ONE_TASK, from_texts

    settings = settings or Settings()
    for name_ in sorted({*OF_ONE_TASK, "parent_context_id", "source_id", "meta"}):
        if getattr(settings, name_) is not None:
            raise InvalidInput(f"--{name_.replace('_', '-')} is of one task, not of a queue")
    wanted: dict[str, Any] = from_texts((fields or Fields()).given() | settings.given())
    wanted |= {name_.strip().replace("-", "_"): None for name_ in (unset or "").split(",") if name_.strip()}
    if not wanted:
        raise InvalidInput("there is nothing to set; give a setting, like --concurrency 3")
    return _change(lambda queue: queues.change(queue, wanted), name, json, where)


def _change(function: Callable[[str], Awaitable[Any]], name: str, json: bool, where: Where | None) -> int:
    from damad.cli import session

    return session.go(_changed(function, name, json, where or Where()))


async def _changed(function: Callable[[str], Awaitable[Any]], name: str, json: bool, where: Where) -> int:
    from damad.cli import render, session

    async with session.opened(where):
        state = await function(name)
    render.as_json(state) if json else render.queues([state])
    return 0
