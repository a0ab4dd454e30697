"""The values of a bench, and the arithmetic on them. Pure."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import msgspec


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """What several runs gave: their median, and from where to where they spread."""

    median: float
    least: float
    most: float
    samples: tuple[float, ...]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """damad beside one yardstick. `ratio`: damad's figure / the yardstick's, of each run by itself.

    `wanted`: the ratio that is the goal, in the direction in which the line is better; None: shown and not judged.
    """

    yardstick: str
    figure: Figure
    ratio: Figure
    wanted: float | None
    met: bool | None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the goals. `met` is None where nothing was wanted that was measured here.

    failed: why it could not be measured; then there is no figure.
    short: why the goal is not judged by what was measured.
    """

    key: str
    title: str
    unit: str
    better: str
    goal: str
    damad: Figure | None = None
    compared: tuple[Comparison, ...] = ()
    wanted: float | None = None
    met: bool | None = None
    failed: str | None = None
    short: str | None = None


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A figure in a log of so many events, and its ratio to the same in one that was just made."""

    events: int
    damad: Figure
    ratio: Figure


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """How a line's figure goes as the log grows."""

    key: str
    points: tuple[Point, ...]


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A whole bench. `machine` and `postgres` say what it ran on, `sizes` how much was measured."""

    version: str
    began: str
    seconds: float
    runs: int
    machine: dict[str, Any]
    postgres: dict[str, Any]
    sizes: dict[str, Any]
    lines: tuple[Line, ...]
    curves: tuple[Curve, ...]


def figure(samples: Sequence[float]) -> Figure:
    """The figure of some samples, at least one."""
    return Figure(median=median(samples), least=min(samples), most=max(samples), samples=tuple(samples))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """The figure of the ratios, run by run: what was measured in the same minute is divided. No yardstick is 0."""
    return figure([one / other for one, other in zip(ours, theirs, strict=True)])


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest rank: the smallest sample that so many percent of all do not exceed."""
    return sorted(samples)[max(0, math.ceil(len(samples) * percent / 100) - 1)]


def is_met(value: float, wanted: float | None, better: str) -> bool | None:
    """Whether a value is what is wanted, where `better` is "more" or "less"."""
    if wanted is None:
        return None
    return value >= wanted if better == "more" else value <= wanted
