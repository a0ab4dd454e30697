"""Exports the spans of what ran on this host, by OpenTelemetry (extra `otel`): where to, its own OTEL_ variables say.

It follows the feed over all contexts, and keeps its place in the state folder once what came before is exported. So a
collector that is away, and a restart of the daemon, make no gap; what is exported twice has the same ids.
"""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from damad.backoff import Backoff
from damad.errors import ConfigError, CursorGone, Unavailable
from damad.eventstore import listener
from damad.eventstore.feed import Cursor, Feed
from damad.eventstore.pools import Database
from damad.eventstore.store import EventStore
from damad.model import spans
from damad.model.event import RecordedEvent
from damad.model.json_value import Unreadable

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

log = structlog.get_logger()

_EXTRA: Final = "otel: OpenTelemetry is not installed; install damad[otel], or leave the setting out"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_POLL: Final = 60.0
"""Seconds after which the feed is looked at, though nobody said that there is anything new."""


class Exporter:
    """Where spans go. Raises ConfigError where the extra is not installed, or an OTEL_ variable is wrong."""

    def __init__(self) -> None:
        try:
            exporting = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
            resources = import_module("opentelemetry.sdk.resources")
        except ImportError:
            raise ConfigError(_EXTRA) from None
        try:
            self._exporter = exporting.OTLPSpanExporter()
        except ValueError as error:
            raise ConfigError(f"otel: {error}") from None
        resource = resources.Resource.create()
        if str(resource.attributes["service.name"]).startswith("unknown_service"):  # nobody gave it another name
            resource = resource.merge(resources.Resource({"service.name": "damad"}))
        self._resource = resource

    async def export(self, found: list[spans.Span]) -> bool:
        """Whether they were taken."""
        if not found:
            return True
        result = await asyncio.to_thread(self._exporter.export, [_readable(span, self._resource) for span in found])
        return bool(result.name == "SUCCESS")


async def export_spans(database: Database, exporter: Exporter, host_id: str, state_dir: Path) -> None:
    """Exports the spans of each run of this host as it ends. Ends never by itself."""
    place = _Place(state_dir / f"otel.{database.pg_env}.cursor")
    feed, store, backoff, said = Feed(database), EventStore(database), Backoff(), False
    cursor = place.read()
    with database.listener().subscribe(listener.EVENT) as bell:
        while True:
            try:
                cursor = cursor or await feed.now()
                page = await feed.page(cursor)
                found = [span for event in page.events for span in await _spans(store, event, host_id)]
            except CursorGone:
                cursor = None
                continue
            except Unavailable:
                await backoff.pause()
                continue
            if not await exporter.export(found):
                if not said:
                    log.warning("spans are not taken; trying again until they are", pg_env=database.pg_env)
                said = True
                await backoff.pause()
                continue
            cursor, said = page.cursor, False
            backoff.reset()
            place.keep(cursor)
            if not page.full:
                await bell.wait(_POLL)


async def _spans(store: EventStore, event: RecordedEvent, host_id: str) -> list[spans.Span]:
    if not spans.ends_run(event):
        return []
    first = await store.read(event.etl_context_id, limit=1)
    if not first or isinstance(first[0].meta, Unreadable):  # it was archived meanwhile, or nobody can read it
        return []
    course = await store.read(event.etl_context_id, types=spans.TYPES)
    return spans.of_run(first[0], course, event, host_id)


class _Place:
    """Where in the feed the export of a pg_env is, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Cursor | None:
        """The place that was kept, or None where there is none that can be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Cursor)
        except (OSError, msgspec.DecodeError):
            return None

    def keep(self, cursor: Cursor) -> None:
        """Half of it is never there. A disk that takes it not costs no more than spans that come twice."""
        draft = self._path.with_suffix(".draft")
        with suppress(OSError):
            draft.write_bytes(msgspec.json.encode(cursor))
            draft.replace(self._path)


def _readable(span: spans.Span, resource: Any) -> "ReadableSpan":
    """The span as OpenTelemetry has it."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    def named(id_: str) -> SpanContext:
        return SpanContext(int(span.trace_id, 16), int(id_, 16), is_remote=False, trace_flags=TraceFlags(1))

    return ReadableSpan(
        span.name,
        context=named(span.span_id),
        parent=None if span.parent_id is None else named(span.parent_id),
        resource=resource,
        attributes=span.attributes,
        kind=SpanKind.CONSUMER,
        status=Status(StatusCode.OK) if span.failed is None else Status(StatusCode.ERROR, span.failed),
        start_time=_nanoseconds(span.start),
        end_time=_nanoseconds(span.end),
    )


def _nanoseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
