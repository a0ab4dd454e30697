"""The description of the HTTP API (OpenAPI 3.1), made from the routes and from the Structs that read and answer them.

Whatever has a route is in it. What a route takes and answers stands in `OPERATIONS`; of one that is not there it says
no more than its docstring does.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

import damad
from damad.eventstore.store import Queued, State, TaskState
from damad.http import (
    auth,
    contexts,
    events,
    feed,
    health,
    logs,
    metrics,
    original,
    problems,
    queues,
    schedules,
    tasks,
    wire,
)  # fmt: skip
from damad.model.event import MAX_TYPE_LENGTH, TYPE, RecordedEvent
from damad.model.queue import TASK_SETTINGS, QueueFields
from damad.model.settings import DURATIONS, SIZES, TaskSettings
from damad.model.ticks import MISSED, OVERLAPS, Schedule
from damad.queues import QueueState
from damad.schedules import NOT_FOR_SCHEDULES, ScheduleFields, Tick
from damad.tasks import Redriven
from damad.tokens import ROLES

_REF: Final = "#/components/schemas/{name}"
_STRUCTS: Final = (
    RecordedEvent, State, TaskState, Queued, events.EventFields, contexts.ContextFields, tasks.TaskFields, TaskSettings,
    QueueFields, QueueState, ScheduleFields, schedules.NewSchedule, schedules.RangeFields, Schedule, Tick,
    problems.Problem, tasks.RetryFields, Redriven,
)  # fmt: skip
_WITHOUT_CONTENT: Final = frozenset({204, 304})
_PARAMETER = re.compile(r"\{(\w+)\}")
_NAMED: Final = re.compile(r"^(?:GET|POST|PATCH|PUT|DELETE)[^:]*: ")
"""How the docstring of a handler begins, where it names what it answers."""


def _ref(shape: type) -> dict[str, Any]:
    return {"$ref": _REF.format(name=shape.__name__)}


def _array(of: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _either(*schemas: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": list(schemas)}


def _object(**members: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": members, "required": [*members]}


def _page(of: Mapping[str, Any]) -> dict[str, Any]:
    return _object(items=_array(of), next=_either(_CURSOR, {"type": "null"}))


_ID: Final = {"type": "integer", "minimum": 1, "maximum": 2**63 - 1}
_NAME: Final = {"type": "string", "pattern": "^[a-z][a-z0-9_]*$", "maxLength": 63}
_CURSOR: Final = {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"}
_EVENT: Final = _ref(RecordedEvent)
_TYPE: Final = {"type": "string", "pattern": f"^{TYPE.pattern}$", "maxLength": MAX_TYPE_LENGTH}
_STATE: Final = _either(_ref(State), _ref(TaskState))
_OLD_EVENT: Final = _object(
    event_id=_ID, etl_context_id=_ID, type={"type": "string"}, payload={}, meta={"type": "object"},
    error={"type": ["boolean", "null"]}, _created_timestamp={"type": "string", "format": "date-time"},
)  # fmt: skip
_TEXT: Final = {"type": "string"}
_BEARER: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "The token in the state folder, or one of `damad tokens` with the role that an operation names or a "
    "later one of " + ", ".join(ROLES) + "; none on the socket",
}


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """What a route takes and answers.

    query: its parameters · body: the schema of its JSON · answers: the schema of each status · media: of its answer, if
    that is no JSON · live: it is a stream for whoever accepts one · headers: those that it heeds, and what for.
    """

    query: type[msgspec.Struct] = wire.NoQuery
    body: dict[str, Any] | None = None
    answers: dict[int, dict[str, Any]] = {}
    media: str = "application/json"
    live: bool = False
    headers: Mapping[str, str] = {}


def _many(shape: type) -> dict[str, Any]:
    """One of them or an array of them."""
    return _either(_ref(shape), {"type": "array", "minItems": 1, "items": _ref(shape)})


_TAGS: Final = {"type": "string", "pattern": r'^(\*|(W/)?"[^"]*"(, (W/)?"[^"]*")*)$'}
_HEADERS: Final = {
    "If-Match": _TAGS,
    "If-None-Match": _TAGS,
    "Idempotency-Key": {"type": "string", "pattern": "^[ -~]{1,1024}$"},
    "Last-Event-ID": _TEXT,
    "traceparent": _TEXT,
}
_TRACED: Final = {"traceparent": "The trace that this belongs to; one that is none (W3C Trace Context) is ignored"}
_KNOWN: Final = "The version that is known already, as an ETag; 304 if the context is still at it"
_RESUMES: Final = {"Last-Event-ID": "In a stream: the cursor to go on after"}
OPERATIONS: Final[Mapping[Handler, Operation]] = {
    events.append_events: Operation(
        body=_many(events.EventFields),
        answers=dict.fromkeys((200, 201), _either(_EVENT, _array(_EVENT))),
        headers={
            "If-Match": "The version that the context is to have, as an ETag; 412 if it has another",
            "Idempotency-Key": "The same key and body again is answered with the first event",
            **_TRACED,
        },
    ),
    events.read_events: Operation(
        query=events.EventQuery,
        answers={200: _page(_EVENT), 304: {}},
        live=True,
        headers={**_RESUMES, "If-None-Match": _KNOWN},
    ),
    feed.read_feed: Operation(query=feed.FeedQuery, answers={200: _page(_EVENT)}, live=True, headers=_RESUMES),
    tasks.queue_tasks: Operation(
        body=_many(tasks.TaskFields),
        answers=dict.fromkeys((200, 201), _either(_ref(Queued), _array(_ref(Queued)))),
        headers={"Idempotency-Key": "The idempotency_key of the one task that is queued", **_TRACED},
    ),
    tasks.list_tasks: Operation(
        query=tasks.TaskQuery, answers={200: _page(_ref(TaskState))}, live=True, headers=_RESUMES
    ),
    tasks.cancel_task: Operation(answers={202: _STATE}, headers=_TRACED),
    tasks.retry_task: Operation(answers={202: _STATE}, headers=_TRACED),
    tasks.retry_tasks: Operation(body=_ref(tasks.RetryFields), answers={200: _ref(Redriven)}),
    contexts.create_context: Operation(body=_ref(contexts.ContextFields), answers={201: _object(etl_context_id=_ID)}),
    contexts.read_state: Operation(
        query=contexts.StateQuery, answers={200: _STATE, 304: {}}, headers={"If-None-Match": _KNOWN}
    ),
    contexts.read_tree: Operation(answers={200: _array(_STATE)}),
    contexts.read_final: Operation(
        query=contexts.FinalQuery, answers={200: _object(state=_TEXT, event=_EVENT), 202: _object(state=_TEXT)}
    ),
    logs.read_log: Operation(query=logs.LogQuery, answers={200: _TEXT}, media="text/plain"),
    original.query_events: Operation(query=original.EventsQuery, answers={200: _array(_OLD_EVENT)}),
    original.read_final_event: Operation(
        query=original.FinalEventQuery, answers={200: _either(_OLD_EVENT, {"type": "null"})}
    ),
    original.make_context: Operation(answers={200: _ID}),
    queues.list_queues: Operation(answers={200: _page(_ref(QueueState))}),
    queues.read_queue: Operation(answers={200: _ref(QueueState)}),
    queues.change_queue: Operation(body=_ref(QueueFields), answers={200: _ref(QueueState)}),
    schedules.list_schedules: Operation(query=schedules.ListQuery, answers={200: _page(_ref(Schedule))}),
    schedules.add_schedule: Operation(body=_ref(schedules.NewSchedule), answers={201: _ref(Schedule)}),
    schedules.read_schedule: Operation(query=schedules.ScheduleQuery, answers={200: _ref(Schedule)}),
    schedules.change_schedule: Operation(body=_ref(ScheduleFields), answers={200: _ref(Schedule)}),
    schedules.remove_schedule: Operation(answers={204: {}}),
    schedules.trigger_schedule: Operation(answers={201: _ref(Queued)}),
    schedules.backfill_schedule: Operation(body=_ref(schedules.RangeFields), answers={201: _array(_ref(Tick))}),
    health.is_alive: Operation(answers={200: {"type": "object"}}),
    health.is_ready: Operation(answers={200: {"type": "object"}}),
    metrics.read_metrics: Operation(answers={200: _TEXT}, media="text/plain"),
}


def document(app: web.Application, also: Mapping[Handler, Operation]) -> dict[str, Any]:
    """The OpenAPI document of an application: each of its routes, and nothing else. `also`: more operations."""
    known = {**OPERATIONS, **also}
    paths: dict[str, dict[str, Any]] = {}
    for route in app.router.routes():
        if route.method != hdrs.METH_HEAD and route.resource is not None:
            path = route.resource.canonical
            paths.setdefault(path, {})[route.method.lower()] = _operation(path, route.handler, known)
            if path not in auth.OPEN_PATHS:
                role = auth.needed(app, route.method, route.handler)
                paths[path][route.method.lower()]["security"] = [{"bearer": [role]}]
    return {
        "openapi": "3.1.0",
        "info": {"title": "damad", "version": damad.__version__, "description": (damad.__doc__ or "").split("\n")[0]},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": _schemas(), "securitySchemes": {"bearer": _BEARER}},
        "security": [{"bearer": []}],
    }


def _operation(path: str, handler: Any, known: Mapping[Handler, Operation]) -> dict[str, Any]:
    about = known.get(handler, Operation())
    summary, _, more = (handler.__doc__ or "").partition("\n")
    made: dict[str, Any] = {
        "operationId": handler.__name__,
        "summary": _NAMED.sub("", summary).rstrip("."),
        "parameters": [*_path_parameters(path), *_query_parameters(about.query), *_header_parameters(about.headers)],
        "responses": {
            str(status): _answer(about, status, schema) for status, schema in (about.answers or {200: {}}).items()
        },
    }
    if more.strip():
        made["description"] = " ".join(more.split())
    made["responses"]["default"] = {
        "description": "What was refused, and why",
        "content": {problems.CONTENT_TYPE: {"schema": _ref(problems.Problem)}},
    }
    if about.body is not None:
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": about.body}}}
    if path in auth.OPEN_PATHS:
        made["security"] = []
    return made


def _answer(about: Operation, status: int, schema: Mapping[str, Any]) -> dict[str, Any]:
    if status in _WITHOUT_CONTENT:
        return {"description": HTTPStatus(status).phrase}
    content: dict[str, Any] = {about.media: {"schema": schema}}
    if about.live:
        content["text/event-stream"] = {"schema": _TEXT}
    return {"description": "The answer", "content": content}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": _ID if name == "id" else _NAME}
        for name in _PARAMETER.findall(path)
    ]


def _query_parameters(shape: type[msgspec.Struct]) -> list[dict[str, Any]]:
    made = []
    for field in msgspec.structs.fields(shape):
        one: dict[str, Any] = {"name": field.encode_name, "in": "query", "required": field.required}
        one["schema"] = _without_null(msgspec.json.schema(field.type))
        if field.name == "cursor":
            one["schema"] = _CURSOR
        if one["schema"].get("type") == "array":
            one |= {"style": "form", "explode": False}
        if field.default is not msgspec.NODEFAULT and field.default not in (None, ()):
            one["schema"] = {**one["schema"], "default": field.default}
        made.append(one)
    return made


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter may be left out; it is never null."""
    sorts: list[dict[str, Any]] = [sort for sort in schema.get("anyOf", [schema]) if sort != {"type": "null"}]
    return sorts[0]


def _header_parameters(headers: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "description": what, "schema": _HEADERS[name]} for name, what in headers.items()
    ]


def _schemas() -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components(_STRUCTS, ref_template=_REF)
    settings = schemas.pop(TaskSettings.__name__)["properties"]
    for name in (*DURATIONS, *SIZES):  # they are read as people write them
        settings[name] = {"type": ["number", "string", "null"]}
    del settings["dama_host_id"]  # where it is queued, and nobody's to give
    task, queue = schemas[tasks.TaskFields.__name__], schemas[QueueFields.__name__]
    task["properties"] = settings | task["properties"]
    schemas[events.EventFields.__name__]["properties"]["type"] = _TYPE
    queue["properties"]["aging"] = {"type": ["number", "string", "null"]}
    queue["properties"] |= {name: _or_null(settings[name]) for name in sorted(TASK_SETTINGS)}
    task["additionalProperties"] = queue["additionalProperties"] = False
    _complete_schedules(schemas, settings)
    return schemas


def _complete_schedules(schemas: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Beside the fields of a schedule stand the settings of its tasks, in what is given and in what is shown."""
    names, null = sorted(settings.keys() - NOT_FOR_SCHEDULES.keys() - {"worker"}), {"type": "null"}
    others = {name: _either(settings[name], null) for name in names}
    fields = schemas[ScheduleFields.__name__]
    fields["properties"] |= {"overlap": {"enum": [*OVERLAPS, None]}, "missed": {"enum": [*MISSED, None]}}
    fields["properties"] = {name: _either(schema, null) for name, schema in fields["properties"].items()}
    new, shown = schemas[schedules.NewSchedule.__name__], schemas[Schedule.__name__]
    new["properties"] = fields["properties"] | new["properties"] | others
    new["required"] = [*new["required"], *fields.pop("required")]
    fields["properties"] |= others
    new["additionalProperties"] = fields["additionalProperties"] = False
    del shown["properties"]["settings"]
    shown["properties"] |= others | {"next_runs": _array({"type": "string", "format": "date-time"})}
    shown["properties"]["error"] = _either({"type": "string"}, null)
    shown["required"] = [*(name for name in shown["required"] if name != "settings"), "error"]


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A setting of a queue, which null takes back."""
    return _either(_without_null(schema), {"type": "null"})
