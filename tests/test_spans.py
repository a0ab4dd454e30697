"""Spans are made of events: each run has its three, once, with the ids that its worker was told, whatever restarts."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from daemon_support import daemon_on, site_of, until
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from damad import spans as exporting
from damad.errors import ConfigError
from damad.model import spans
from damad.model.event import RecordedEvent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
HOST = "a-host"
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def course(*told: tuple[str, int, Any], meta: dict[str, Any] | None = None) -> list[RecordedEvent]:
    """The events of a context: of each its type, its seconds after noon, its payload."""
    return [
        RecordedEvent(
            event_id=version, etl_context_id=7, version=version, event_uuid=UUID(int=version),
            type=type_ if ":" in type_ else f"dama/task:{type_}", payload=payload,
            meta=meta if version == 1 else None, error=None, created_timestamp=NOON + timedelta(seconds=seconds),
        )
        for version, (type_, seconds, payload) in enumerate(told, 1)
    ]  # fmt: skip


def run(fence: int, attempt: int, start: int) -> list[tuple[str, int, Any]]:
    """A claim, and a second later its start."""
    return [
        ("CLAIMED", start, {"fence": fence}),
        ("STARTED", start + 1, {"attempt": attempt, "host_id": HOST}),
    ]


def spans_of(events: list[RecordedEvent], host_id: str = HOST) -> list[spans.Span]:
    """The spans of the run that the last of the events ended."""
    return spans.of_run(events[0], [event for event in events if event.type in spans.TYPES], events[-1], host_id)


def times(found: list[spans.Span]) -> dict[str, tuple[float, float]]:
    return {
        span.name.removeprefix("damad "): ((span.start - NOON).total_seconds(), (span.end - NOON).total_seconds())
        for span in found
    }


SETTINGS = {"__dama_task_manager__": {"worker": "a.py", "queue": "q"}}
TRACED = {"traceparent": PARENT, **SETTINGS}


def test_a_run_has_three_spans_below_the_one_that_its_task_was_queued_in() -> None:
    found = spans_of(course((":INITIAL", 0, None), *run(3, 1, 5), (":FINAL", 9, {}), meta=TRACED))
    assert times(found) == {"queue": (0, 5), "claim": (5, 6), "attempt": (6, 9)}
    assert {(span.trace_id, span.parent_id, span.failed) for span in found} == {(TRACE, SPAN, None)}
    assert len({span.span_id for span in found}) == 3
    about = {"damad.etl_context_id": 7, "damad.attempt": 1, "damad.worker": "a.py", "damad.queue": "q"}
    assert [span.attributes for span in found] == [about] * 3


def test_a_worker_is_told_the_span_of_its_attempt() -> None:
    events = course((":INITIAL", 0, None), *run(3, 1, 5), (":FINAL", 9, {}), meta=TRACED)
    assert spans.traceparent_of(events[0], 3) == f"00-{TRACE}-{spans_of(events)[-1].span_id}-01"


def test_a_task_that_came_without_a_trace_begins_one() -> None:
    events = course((":INITIAL", 0, None), *run(1, 1, 5), (":FINAL", 9, {}), meta=SETTINGS)
    assert {(span.trace_id, span.parent_id) for span in spans_of(events)} == {(UUID(int=1).hex, None)}
    assert spans.traceparent_of(events[0], 1).startswith(f"00-{UUID(int=1).hex}-")


def test_a_second_run_was_queued_since_its_retry_was_due_and_failed_of_what_its_error_says() -> None:
    due = (NOON + timedelta(seconds=30)).isoformat()
    failed = [("ERROR", 9, {"message": "no"}), ("RETRY", 9, {"run_at": due})]
    first = [(":INITIAL", 0, None), *run(1, 1, 5), *failed]
    found = spans_of(course(*first, *run(2, 2, 40), ("ERROR", 50, {"message": "again"}), meta=TRACED))
    assert times(found) == {"queue": (30, 40), "claim": (40, 41), "attempt": (41, 50)}
    assert [span.failed for span in found] == [None, None, "again"]
    assert not {span.span_id for span in found} & {span.span_id for span in spans_of(course(*first[:4], meta=TRACED))}


@pytest.mark.parametrize("start_after", [20, (NOON + timedelta(seconds=20)).isoformat()])
def test_a_task_is_queued_from_when_it_may_start(start_after: float | str) -> None:
    settings = {"__dama_task_manager__": {"worker": "a.py", "start_after": start_after}}
    found = spans_of(course((":INITIAL", 0, None), *run(1, 1, 25), (":FINAL", 30, {}), meta=settings))
    assert times(found)["queue"] == (20, 25)


@pytest.mark.parametrize(
    ("told", "meta", "host_id"),
    [
        ([*run(1, 1, 5), (":FINAL", 9, {})], {"traceparent": PARENT[:-2] + "00", **SETTINGS}, HOST),
        ([*run(1, 1, 5), (":FINAL", 9, {})], TRACED, "another"),
        ([(":FINAL", 9, {})], TRACED, HOST),
        ([("CLAIMED", 5, {"fence": 1}), ("RELEASED", 6, {})], TRACED, HOST),
        ([*run(1, 1, 5), ("ERROR", 9, {}), ("RETRY", 9, {}), (":FINAL", 10, {})], TRACED, HOST),
        ([*run(1, 1, 5), ("ERROR", 9, {}), ("CANCELLED", 9, {})], TRACED, HOST),
    ],
)
def test_what_ended_no_run_of_this_host_or_is_not_sampled_has_no_spans(
    told: list[Any], meta: dict[str, Any], host_id: str
) -> None:
    assert spans_of(course((":INITIAL", 0, None), *told, meta=meta), host_id) == []


# --- exported ---


class Collector:
    """Takes spans as OpenTelemetry's do, over HTTP. takes: False where it refuses them."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        self.takes = True
        self.refused = 0

    async def take(self, request: web.Request) -> web.Response:
        if not self.takes:
            self.refused += 1
            return web.Response(status=400)
        for one in ExportTraceServiceRequest.FromString(await request.read()).resource_spans:
            self.services |= {each.value.string_value for each in one.resource.attributes if each.key == "service.name"}
            self.spans += [span for scope in one.scope_spans for span in scope.spans]
        return web.Response(content_type="application/x-protobuf")

    def of(self, id_: int) -> list[Any]:
        return [
            span
            for span in self.spans
            for each in span.attributes
            if each.key == "damad.etl_context_id" and each.value.int_value == id_
        ]


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, dict[str, str]]]:
    """A collector, and what a daemon has to be told to export there."""
    collector, app = Collector(), web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
        yield collector, {"DAMAD_OTEL": "true", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint}
    finally:
        await runner.cleanup()


TELLS = """
import os
from damad import context

def main(initial_event):
    if initial_event["payload"] == "fails":
        raise ValueError("no")
    return {"environment": os.environ["TRACEPARENT"], "context": context.current().traceparent}
"""


async def test_each_run_is_exported_with_the_ids_that_its_worker_was_told(template: str, tmp_path: Path) -> None:
    async with collecting() as (collector, settings), site_of(tmp_path, template, **settings) as site, daemon_on(site):
        good = await site.run(TELLS, meta={"traceparent": PARENT})
        bad = await site.run(TELLS, "fails", retry_limit=0, meta={"traceparent": PARENT})
        await until(lambda: len(collector.of(good.id)) + len(collector.of(bad.id)) >= 6, lambda: collector.spans)
        assert collector.services == {"damad"}
        found = {span.name: span for span in collector.of(good.id)}
        assert found.keys() == {"damad queue", "damad claim", "damad attempt"} and len(collector.spans) == 6
        assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
        assert {span.parent_span_id.hex() for span in collector.spans} == {SPAN}
        told = f"00-{TRACE}-{found['damad attempt'].span_id.hex()}-01"
        assert good.result == {"environment": told, "context": told}
        assert found["damad queue"].end_time_unix_nano == found["damad claim"].start_time_unix_nano
        failed = next(span for span in collector.of(bad.id) if span.name == "damad attempt")
        assert failed.status.code == 2 and "no" in failed.status.message


async def test_a_collector_that_is_away_and_a_restart_make_no_gap(template: str, tmp_path: Path) -> None:
    async with (
        collecting() as (collector, settings),
        site_of(tmp_path, template, **settings) as site,
        daemon_on(site) as daemon,
    ):
        before = await site.run(TELLS)
        await until(lambda: len(collector.of(before.id)) == 3, lambda: collector.spans)
        collector.takes = False
        meanwhile = await site.run(TELLS)
        await until(lambda: collector.refused > 1, lambda: daemon.log)  # it has tried again, so nothing is behind it
        await daemon.kill()
        collector.takes = True
        await daemon.start()
        after = await site.run(TELLS)
        for outcome in (meanwhile, after):
            await until(lambda: len(collector.of(outcome.id)) >= 3, lambda: collector.spans)  # noqa: B023
        assert len({(span.trace_id, span.span_id) for span in collector.spans}) == 9


def test_nothing_of_it_is_imported_where_nobody_asks_for_it() -> None:
    look = (
        "import sys, damad.daemon, damad.runner.child; print([n for n in sys.modules if n.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_without_the_extra_the_setting_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"install damad\[otel\]"):
        exporting.Exporter()
