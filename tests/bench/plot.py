"""How the figures go as the log grows, drawn: docs/growth.svg, made of nothing but text."""

from collections.abc import Iterator, Sequence
from math import log10
from typing import Final

from damad.bench.figures import Curve, Point

_WIDTH, _HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 500, 24, 272
_BAND: Final = (0.9, 1.1)
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73")
"""Told apart by most who do not see all colours (Okabe and Ito)."""
_STYLE: Final = """\
  text { font: 13px system-ui, sans-serif; fill: #333 }
  .paper { fill: #fff } .axis { stroke: #999 } .band { fill: #009e73; opacity: 0.12 }
  @media (prefers-color-scheme: dark) { text { fill: #ccc } .paper { fill: #14171a } }"""


def plot(curves: Sequence[Curve], titles: dict[str, str]) -> str:
    """The ratio of each figure to the same in a log that was just made, over the events of the log."""
    events = sorted({point.events for curve in curves for point in curve.points})
    paper = _Paper(events, max([1.25, *(point.ratio.most for curve in curves for point in curve.points)]))
    drawn = [line for number, curve in enumerate(curves) for line in _curve(paper, number, curve, titles[curve.key])]
    label = "Figures in a grown log, divided by the same in a log that was just made"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
            f"<title>{label}</title>",
            f"<style>\n{_STYLE}\n</style>",
            f'<rect class="paper" width="{_WIDTH}" height="{_HEIGHT}"/>',
            *_axes(paper, events),
            *drawn,
            "</svg>\n",
        ]
    )


class _Paper:
    """Where a value lies on the drawing: events by their power of ten from left to right, ratios from 0 upwards."""

    def __init__(self, events: Sequence[int], most: float) -> None:
        self._first, self._span = log10(events[0]), max(1.0, log10(events[-1] / events[0]))
        self._most = most

    def x(self, events: int) -> float:
        """From the left."""
        return round(_LEFT + 24 + (log10(events) - self._first) / self._span * (_RIGHT - _LEFT - 48), 1)

    def y(self, ratio: float) -> float:
        """From the top."""
        return round(_BOTTOM - ratio / self._most * (_BOTTOM - _TOP), 1)


def _axes(paper: _Paper, events: Sequence[int]) -> Iterator[str]:
    low, high = (paper.y(ratio) for ratio in _BAND)
    yield f'<rect class="band" x="{_LEFT}" y="{high}" width="{_RIGHT - _LEFT}" height="{round(low - high, 1)}"/>'
    for ratio in (0.0, 0.5, 1.0):
        yield f'<line class="axis" x1="{_LEFT}" x2="{_RIGHT}" y1="{paper.y(ratio)}" y2="{paper.y(ratio)}"/>'
        yield f'<text x="{_LEFT - 8}" y="{paper.y(ratio) + 4}" text-anchor="end">{ratio}</text>'
    for each in events:
        yield f'<text x="{paper.x(each)}" y="{_BOTTOM + 20}" text-anchor="middle">{each:,}</text>'
    yield f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_BOTTOM + 40}" text-anchor="middle">events in the log</text>'


def _curve(paper: _Paper, number: int, curve: Curve, title: str) -> Iterator[str]:
    colour, aside = _COLOURS[number % len(_COLOURS)], (number - 1) * 5  # so that bars do not hide each other
    places = [(paper.x(point.events) + aside, point) for point in curve.points]
    line = " ".join(f"{x},{paper.y(point.ratio.median)}" for x, point in places)
    yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for x, point in places:
        yield from _mark(paper, x, point, colour)
    height = _TOP + 20 + number * 24
    yield f'<circle cx="{_RIGHT + 20}" cy="{height - 4}" r="4" fill="{colour}"/>'
    yield f'<text x="{_RIGHT + 32}" y="{height}">{title}</text>'


def _mark(paper: _Paper, x: float, point: Point, colour: str) -> Iterator[str]:
    least, most = paper.y(point.ratio.least), paper.y(point.ratio.most)
    yield f'<line x1="{x}" x2="{x}" y1="{least}" y2="{most}" stroke="{colour}"/>'
    yield f'<circle cx="{x}" cy="{paper.y(point.ratio.median)}" r="4" fill="{colour}"/>'
