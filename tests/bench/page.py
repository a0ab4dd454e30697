"""docs/performance.md, written out of the documents of a bench: `make bench`, `make bench-peers`."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from notes import BOUNDS

from damad.bench import goals
from damad.bench.figures import Comparison, Curve, Document, Figure, Line
from damad.bench.sizes import Sizes

HEAD: Final = """\
# Performance

Written by `make bench` out of one run of `damad bench --json`; the peers by `make bench-peers`. Absolute figures drift
on shared machines, so each is taken beside its yardstick, one right after the other, and what counts is the **ratio**:
the median of several runs, and in brackets from where to where it spread. Real Postgres, real daemons, real
processes; always with the whole event log behind it.

`damad bench` does the same on your machine and your Postgres, in scratch databases that it removes again; it loads both
as hard as it can for some minutes. With `--json` it prints one document: `version`, `began`, `seconds`, `runs`,
`machine`, `postgres`, `sizes` and `lines`. A line has `key`, `title`, `unit`, `better` (`more` or `less`), `goal`,
`damad` (`median`, `least`, `most` and the `samples`), `wanted` (of damad's own figure), `compared` (for each
`yardstick` its `figure`, the `ratio` to it, run by run, and the ratio that is `wanted`), and `met`: true, false, or
null where the goal is not judged, be it `short` (why what was measured does not say) or `failed` (it could not be
measured; then the exit code is 1). `curves` has the `points` of what is drawn below.

`damad bench queue.one drain` measures only the lines that begin so, and with `--quick` each in some seconds.
"""
_COLUMNS: Final = ("what", "damad", "yardstick", "damad / yardstick", "goal", "")


def page(document: Document, peers: Any = None) -> str:
    """The whole page. `peers`: what peers.py measured, where it was."""
    parts = [HEAD, _ran_on(document), "## The goals\n", *_table(document.lines, peers), "", *_growth(document.curves)]
    parts += _missed(document, peers)
    return "\n".join([*parts, *_peers(peers)]).rstrip() + "\n"


def _ran_on(document: Document) -> str:
    machine, postgres, sizes = document.machine, document.postgres, document.sizes
    facts = [
        f"Measured {document.began} in {document.seconds:.0f} s, runs: {document.runs}.",
        f"{machine['cores']} cores (load {machine['load'][0]} at the end), {machine['system']}, "
        f"Python {machine['python']}.",
        f"Postgres {postgres['version']}, "
        + ", ".join(f"`{name}` {postgres[name]}" for name in ("fsync", "synchronous_commit", "full_page_writes")) + ".",
        f"The largest log held {10 ** sizes['growth']:,} events, a tenth as many tasks queued.",
    ]  # fmt: skip
    if sizes["seconds"] < Sizes().seconds:
        facts.append("**A quick run, each line measured shortly: rough figures.**")
    if machine["load"][0] > machine["cores"]:
        facts.append("**The machine was busy with other things: ratios hold better than figures here.**")
    return "\n".join(facts) + "\n"


def _table(lines: Sequence[Line], peers: Any) -> list[str]:
    rows = [_row(_COLUMNS), _row("---" for _ in _COLUMNS)]
    for line in lines:
        compared = [_compared(each) for each in line.compared] + _beside_peers(line, peers)
        names, ratios = "<br>".join(name for name, _ in compared), "<br>".join(ratio for _, ratio in compared)
        ours = "" if line.damad is None else f"{_spread(line.damad)} {line.unit}"
        rows.append(_row((f"{line.title} (`{line.key}`)", ours, names, ratios, line.goal, _verdict(line, peers))))
    return rows


def _compared(each: Comparison) -> tuple[str, str]:
    return f"{each.yardstick}: {number(each.figure.median)}", _spread(each.ratio)


def _beside_peers(line: Line, peers: Any) -> list[tuple[str, str]]:
    if line.damad is None:
        return []
    found = [(peer, value(peers, peer.yardstick)) for peer in _goal(line).peers]
    return [
        (f"{peer.yardstick}: {number(figure)}", number(line.damad.median / figure)) if figure else
        (f"{peer.yardstick}: not measured here", "")
        for peer, figure in found
    ]  # fmt: skip


def met(line: Line, peers: Any) -> bool | None:
    """The verdict of a line, what the peers were measured to do included."""
    verdicts = [] if line.met is None else [line.met]
    for peer in _goal(line).peers:
        figure = value(peers, peer.yardstick)
        if figure and line.damad is not None and peer.wanted is not None:
            verdicts.append(line.damad.median / figure >= peer.wanted)
    return all(verdicts) if verdicts else None


def value(peers: Any, name: str) -> float | None:
    """The figure that a peer's own bench printed under that name."""
    for printed in peers["lines"] if peers else ():
        if printed.startswith(name):
            return float(printed.removeprefix(name).split()[0])
    return None


def _verdict(line: Line, peers: Any) -> str:
    if line.failed or line.short:
        return f"not measured: {line.failed}" if line.failed else str(line.short)
    return {True: "met", False: "**missed**", None: "not judged here"}[met(line, peers)]


def _missed(document: Document, peers: Any) -> list[str]:
    missed = [line for line in document.lines if not line.short and met(line, peers) is False]
    if not missed:
        return []
    notes = [f"- `{line.key}`, {line.title}: {BOUNDS.get(line.key, 'not looked into yet.')}" for line in missed]
    return ["## What bounds the goals that are missed\n", *notes, ""]


def _growth(curves: Sequence[Curve]) -> Iterator[str]:
    if not curves:
        return
    yield "## Growth\n"
    yield "Each figure divided by the same in a log that was just made. The band is within 10 %, a bar the spread.\n"
    yield "![The figures in a grown log, divided by the same in a small one](growth.svg)\n"
    yield _row(("events", *(f"`{curve.key}`" for curve in curves)))
    yield _row("---" for _ in (None, *curves))
    for points in zip(*(curve.points for curve in curves), strict=True):
        cells = (f"{number(point.damad.median)} /s, × {_spread(point.ratio)}" for point in points)
        yield _row((f"{points[0].events:,}", *cells))
    yield ""


def _peers(peers: Any) -> list[str]:
    if not peers:
        return ["## The peers\n", "Not measured in the same minutes, and so not shown: `make bench-peers` does both."]
    lines = [f"Measured {peers['began']} on one Postgres with damad, as their own benches print it:\n", "```"]
    return ["## The peers\n", *lines, *peers["lines"], "```"]


def _goal(line: Line) -> goals.Goal:
    return next(goal for goal in goals.GOALS if goal.key == line.key)


def _spread(figure: Figure) -> str:
    middle, least, most = number(figure.median), number(figure.least), number(figure.most)
    return middle if least == most else f"{middle} ({least}–{most})"


def number(value: float) -> str:
    """Three digits that say something, and commas between thousands."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _row(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
