"""Tables for people, JSON for programs."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from damad.eventstore.ended import Cause
from damad.eventstore.schedules import Read
from damad.eventstore.store import State, TaskState
from damad.model.event import RecordedEvent
from damad.queues import QueueState
from damad.schedules import fault

_COLOURS: Final = {
    "done": "green", "failed": "red", "error": "red", "cancelled": "magenta", "cancelling": "magenta",
    "running": "cyan", "claimed": "cyan", "retrying": "yellow", "waiting": "blue",
}  # fmt: skip
_LONGEST_PAYLOAD: Final = 400
_TELLING: Final = {
    "dama/task:CLAIMED": ("fence",),
    "dama/task:STARTED": ("attempt", "pid"),
    "dama/task:ERROR": ("attempt", "kind", "message", "exit_code", "signal"),
}
"""What of damad's own events tells a person something. (--json has all.)"""


def as_json(value: Any) -> None:
    """The value as JSON on stdout, indented for a terminal."""
    encoded = msgspec.json.encode(value)
    text = msgspec.json.format(encoded, indent=2 if sys.stdout.isatty() else 0)
    print(text.decode())


def as_json_line(value: Any) -> None:
    """The value as one line of JSON on stdout, flushed: somebody may be following."""
    print(msgspec.json.encode(value).decode(), flush=True)


def tasks(states: Sequence[State]) -> None:
    """A table of tasks."""
    table = _table("id", "state", "queue", "worker", "attempt", "queued", "took", "note")
    for state in states:
        if isinstance(state, TaskState):
            note = Text(state.held or _note(state), overflow="ellipsis", no_wrap=True)
            table.add_row(
                str(state.etl_context_id), _coloured(state.state), state.queue, state.worker, str(state.attempt or "–"),
                _ago(state.created_at), _took(state), note,
            )  # fmt: skip
    _print(table if states else "no tasks")


def causes(found: Sequence[Cause]) -> None:
    """A table of what tasks failed of."""
    table = _table("tasks", "kind", "newest", "message")
    for cause in found:
        message = Text(cause.message or "", overflow="ellipsis", no_wrap=True)
        table.add_row(str(cause.tasks), cause.kind or "–", str(cause.newest), message)
    _print(table if found else "no tasks that failed")


def queues(states: Sequence[QueueState]) -> None:
    """A table of queues."""
    table = _table("queue", "", "waiting", "oldest", "running", "at a time", "limits", "run in", "settings")
    for state in states:
        table.add_row(
            state.name, Text("paused", style="red") if state.paused else Text(""), str(state.depth),
            "–" if state.oldest_age is None else _span(timedelta(seconds=state.oldest_age)), str(state.running),
            str(state.concurrency), _limits(state), f"{state.run_in}{', shared' if state.shared else ''}",
            ", ".join(f"{name} {_short(value)}" for name, value in ({"aging": state.aging} | state.settings).items()
                      if value is not None),
        )  # fmt: skip
    _print(table if states else "no queues")


def _limits(state: QueueState) -> str:
    said = {"in all": state.global_concurrency, "a key": state.key_concurrency}
    limits = [f"{number} {of_what}" for of_what, number in said.items() if number is not None]
    limits += [state.rate] if state.rate else []
    return ", ".join([*limits, *([f"{state.key_rate} a key"] if state.key_rate else [])])


def tokens(found: Sequence[Any]) -> None:
    """A table of tokens."""
    table = _table("name", "role", "pg_env", "made")
    for token in found:
        table.add_row(
            token.name, token.role, token.pg_env or "every", f"{token.made_at.astimezone():%Y-%m-%d %H:%M:%S}"
        )
    _print(table if found else "no tokens beside the first one, in the state folder")


def schedules(found: Sequence[Read]) -> None:
    """A table of schedules."""
    table = _table("name", "cron", "zone", "next", "worker")
    for column in table.columns[:4]:
        column.no_wrap = True
    for schedule, _ in found:
        coming = "–" if schedule.next_tick is None else f"{schedule.next_tick.astimezone():%Y-%m-%d %H:%M:%S}"
        shown = Text("paused", style="yellow") if schedule.paused else Text(coming)
        if wrong := fault(schedule):
            shown = Text(wrong, style="red")
        table.add_row(schedule.name, schedule.cron, schedule.zone, shown, schedule.worker)
    _print(table if found else "no schedules")


def shown(state: State, events: Sequence[RecordedEvent], tree: Sequence[State]) -> None:
    """A context as a page: its state, its tree, its events."""
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(state):
        facts.add_row(Text(name, style="bold"), value)
    _print(facts)
    if len(tree) > 1:
        _print("", _tree(tree, state.etl_context_id))
    _print("")
    _print(_event_table(events))
    if isinstance(state, TaskState) and state.error:
        error = state.error
        _print("", Text(error.get("traceback") or error.get("message") or "", style="red"))


def event_line(event: RecordedEvent) -> None:
    """One event as a line, flushed, for who follows a log."""
    version, time, type_, payload = _cells(event)
    line = Text.assemble((f"{event.etl_context_id}/{version} ", "dim"), (f"{time} ", "dim"), type_, " ", payload)
    Console(highlight=False, soft_wrap=True).print(line)
    sys.stdout.flush()


def mismatches(found: Sequence[Any]) -> None:
    """A table of what `verify` found."""
    table = _table("context", "field", "the events say", "the projection says")
    for mismatch in found:
        table.add_row(str(mismatch.etl_context_id), mismatch.field, _short(mismatch.folded), _short(mismatch.projected))
    _print(table)


def legacy(found: Sequence[Any]) -> None:
    """A table of what `verify` found that the original left, which is no mismatch."""
    print(f"{sum(len(left.event_ids) for left in found)} legacy events: kept as the original wrote them, passed over")
    table = _table("context", "the rule now", "events")
    for left in found:
        table.add_row(str(left.etl_context_id), left.rule, _short(left.event_ids))
    _print(table)


def findings(found: Sequence[Any]) -> None:
    """A table of what `doctor` found."""
    table = _table("", "what", "found", "what to do")
    for finding in found:
        mark = Text("well", style="green") if finding.well else Text("not well", style="red")
        table.add_row(mark, finding.what, finding.detail, finding.advice or "")
    _print(table)


def _event_table(events: Iterable[RecordedEvent]) -> Table:
    table = _table("version", "time", "type", "payload")
    for event in events:
        table.add_row(*_cells(event))
    return table


def bench(document: Any) -> None:
    """A bench: damad's figures beside their yardsticks, and what is wanted of them."""
    table = _table("line", "damad", "yardstick", "ratio (least–most)", "goal", "")
    for line in document.lines:
        first, *others = [_compared(each) for each in line.compared] or [("", "")]
        table.add_row(line.key, _figure(line), *first, line.goal, _verdict(line))
        for other in others:
            table.add_row("", "", *other, "", "")
    _print(table)
    _print(Text(f"{document.runs} runs in {document.seconds:.0f} s, Postgres {document.postgres['version']}, fsync "
                f"{document.postgres['fsync']}, {document.machine['cores']} cores, load {document.machine['load'][0]}",
                style="dim"))  # fmt: skip


def _figure(line: Any) -> str:
    return "–" if line.damad is None else f"{_number(line.damad.median)} {line.unit}"


def _compared(each: Any) -> tuple[str, str]:
    wanted = "" if each.wanted is None else f", wanted {_number(each.wanted)}"
    spread = f"{_number(each.ratio.median)} ({_number(each.ratio.least)}–{_number(each.ratio.most)}){wanted}"
    return f"{each.yardstick}: {_number(each.figure.median)}", spread


def _verdict(line: Any) -> Text:
    if line.failed:
        return Text(line.failed, style="red")
    if line.short:
        return Text(line.short, style="dim")
    return {True: Text("met", style="green"), False: Text("missed", style="red"), None: Text("")}[line.met]


def _number(value: float) -> str:
    """Three digits that say something, and commas between thousands."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _cells(event: RecordedEvent) -> tuple[str, str, Text, Text]:
    style = "red" if event.error or event.type.endswith((":ERROR", ":FAILED")) else ""
    style = "green" if event.type.endswith(":FINAL") else style
    time = event.created_timestamp.astimezone().strftime("%H:%M:%S.%f")[:-3]
    return str(event.version), time, Text(event.type, style=style), Text(_short(_telling(event)), style="dim")


def _telling(event: RecordedEvent) -> Any:
    names = _TELLING.get(event.type)
    if names is None or not isinstance(event.payload, dict):
        return event.payload
    return {name: event.payload[name] for name in names if event.payload.get(name) is not None}


def _facts(state: State) -> list[tuple[str, Any]]:
    facts: list[tuple[str, Any]] = [
        ("context", str(state.etl_context_id)),
        ("state", _coloured(state.state)),
        ("created", f"{state.created_at.astimezone():%Y-%m-%d %H:%M:%S} ({_ago(state.created_at)} ago)"),
    ]
    if isinstance(state, TaskState):
        facts += [
            ("worker", Text(state.worker)),
            ("queue", f"{state.queue}, priority {state.priority}"),
            ("attempt", f"{state.attempt}, fence {state.fence}"),
            ("took", _took(state)),
        ]
        if state.state in ("scheduled", "retrying"):
            facts.append(("runs at", f"{state.run_at.astimezone():%Y-%m-%d %H:%M:%S}"))
        if note := _note(state):
            facts.append(("note", Text(note)))
        if state.held:
            facts.append(("held back", Text(state.held)))
    return facts


def _tree(states: Sequence[State], here: int) -> Tree:
    nodes: dict[int, Tree] = {}
    root: Tree | None = None
    for state in states:
        label = Text.assemble(
            (f"{state.etl_context_id} ", "bold" if state.etl_context_id == here else ""),
            _coloured(state.state),
            f" {state.worker}" if isinstance(state, TaskState) else "",
        )
        parent = nodes.get(state.parent_context_id or 0)
        nodes[state.etl_context_id] = parent.add(label) if parent else Tree(label)
        root = root or nodes[state.etl_context_id]
    return root or Tree("")


def _note(state: TaskState) -> str:
    if state.state in ("failed", "retrying") and isinstance(state.error, dict):
        return str(state.error.get("message") or state.error.get("kind") or "")
    if state.state == "running" and isinstance(state.progress, dict):
        return f"{float(state.progress.get('fraction') or 0):.0%} {state.progress.get('note') or ''}".strip()
    return ""


def _took(state: TaskState) -> str:
    if state.started_at is None:
        return "–"
    return _span((state.finished_at or datetime.now(UTC)) - state.started_at)


def _ago(moment: datetime) -> str:
    return _span(datetime.now(UTC) - moment)


def _span(span: Any) -> str:
    seconds = max(0.0, span.total_seconds())
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def _coloured(state: str) -> Text:
    return Text(state, style=_COLOURS.get(state, ""))


def _short(value: Any) -> str:
    text = "" if value is None else msgspec.json.encode(value).decode()
    return text if len(text) <= _LONGEST_PAYLOAD else text[:_LONGEST_PAYLOAD] + "…"


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(*things: Any) -> None:
    console = Console(highlight=False)
    for thing in things:
        console.print(thing)
