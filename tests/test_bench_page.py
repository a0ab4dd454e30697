"""The page of the speed says what was measured, by damad and by the peers, and what bounds the goals missed."""

from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from damad.bench.figures import Comparison, Curve, Document, Line, Point, figure
from damad.bench.sizes import Sizes

PEERS = {"began": "today", "lines": ["pgqueuer single enqueue/s 1000", "pgqueuer single other 7"]}
LINE = Line(
    key="queue.one", title="tasks queued", unit="/s", better="more", goal="≥ 1.6 × pgqueuer",
    damad=figure([900.0, 1500.0]),
    compared=(
        Comparison(yardstick="inserts", figure=figure([3000.0]), ratio=figure([0.3, 0.5]), wanted=None, met=None),
    ),
)  # fmt: skip

CURVES = (
    Curve(
        key="growth.queue",
        points=(
            Point(events=10_000, damad=figure([50.0]), ratio=figure([0.9, 1.0, 1.1])),
            Point(events=100_000, damad=figure([50.0]), ratio=figure([0.5])),
        ),
    ),
)
_SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent / "bench")
    return import_module("page").page


def document(*lines: Line) -> Document:
    machine = {"cores": 2, "load": [0.5], "system": "Linux", "python": "3.13"}
    postgres = dict.fromkeys(("version", "fsync", "synchronous_commit", "full_page_writes"), "on")
    return Document(version="1", began="now", seconds=1.0, runs=2, machine=machine, postgres=postgres,
                    sizes=msgspec.to_builtins(Sizes()), lines=lines, curves=CURVES)  # fmt: skip


def test_a_goal_against_a_peer_is_judged_by_what_the_peer_measured_of_itself(page: Any) -> None:
    text = page(document(LINE), PEERS)
    assert "pgqueuer single enqueue/s: 1,000" in text and "**missed**" in text
    assert "- `queue.one`, tasks queued: " in text.split("## What bounds the goals that are missed")[1]


def test_a_goal_against_a_peer_is_not_judged_where_the_peer_was_not_measured(page: Any) -> None:
    text = page(document(LINE))
    assert "not judged here" in text and "## What bounds" not in text
    assert "pgqueuer single enqueue/s: not measured here" in text


def test_a_ratio_is_shown_with_its_spread(page: Any) -> None:
    assert "0.4 (0.3–0.5)" in page(document(LINE))


def test_a_line_that_failed_says_why_and_has_no_figure(page: Any) -> None:
    text = page(document(msgspec.structs.replace(LINE, damad=None, compared=(), failed="a daemon did not start")))
    assert "not measured: a daemon did not start" in text


def test_what_changes_as_the_log_grows_stands_in_a_table_size_by_size(page: Any) -> None:
    text = page(document(LINE)).split("## Growth")[1]
    assert "| 10,000 | 50 /s, × 1 (0.9–1.1) |" in text and "| 100,000 | 50 /s, × 0.5 |" in text


def test_what_changes_as_the_log_grows_is_drawn_from_left_to_right(page: Any) -> None:
    drawn = ElementTree.fromstring(import_module("plot").plot(CURVES, {"growth.queue": "tasks queued"}))
    texts = [text.text for text in drawn.iter(f"{_SVG}text")]
    assert {"10,000", "100,000", "tasks queued"} <= set(texts)
    (line,) = (each.attrib["points"] for each in drawn.iter(f"{_SVG}polyline"))
    (left, high), (right, low) = (map(float, point.split(",")) for point in line.split())
    assert left < right and high < low  # what is slower lies lower
