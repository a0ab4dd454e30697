"""docs/reliability.md, written by a run of the faults itself: `make faults`.

A test of a fault says so: `@pytest.mark.fault(fault=…, injected=…, invariants="I1 I8")`; what it says once a run, and
`record_property("injected", n)` how often it struck, if that was more than once.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fast_paths
import msgspec
import pytest

HEAD = """\
# Reliability

What must hold, whatever breaks:

| | |
|---|---|
| I1 | no acknowledged event is lost; one whose outcome is unknown is whole or absent, and may be sent again |
| I2 | the versions of a context are 1..n without a gap; no `event_uuid` twice |
| I3 | one `:INITIAL`, first; at most one `:FINAL`, last |
| I4 | on one host never two live attempts of one context; across hosts only one attempt's events count |
| I5 | nothing that carries an old fence is accepted, not even in a transaction that began before the takeover |
| I6 | every task ends, or waits for something named, in bounded time |
| I7 | each subscriber sees each event once, in version order per context |
| I8 | every projection is the fold of its events (`damad verify`) |
| I9 | rows that a worker writes with a checkpoint in one transaction exist exactly once |
| I10 | after a drain there is no stray process, zombie, socket, lock or temporary file |
| I11 | the daemon stays up and honest: 503 with `Retry-After` when Postgres is away, never 500, never a wrong answer |
| I12 | attempts, retries and their rate are bounded; a claim that did not start burns nothing |

## What was broken, and how

Written by `make faults`, out of its last complete run: every fault, how it was injected, which invariants were checked
afterwards, how many tests ran and how often they struck.

"""
_COLUMNS = ("fault", "injected by", "checked", "tests", "struck", "in")


class Row(msgspec.Struct):
    """What the tests of one file say of a fault, and how often they ran."""

    fault: str
    injected: str
    invariants: str
    place: str
    runs: int = 0
    struck: int = 0
    skipped: str = ""


class Page:
    """The rows of a run, sorted by file: tests that run beside each other end in any order."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}
        self.failed = False

    def add(self, report: pytest.TestReport) -> None:
        """Counts a test that came to its end."""
        told = dict(report.user_properties)
        self.failed = self.failed or report.failed
        if "fault" not in told or not (report.when == "call" or report.skipped):
            return
        fresh = Row(**told["fault"], place=_place(report.nodeid))
        row = self.rows.setdefault((fresh.fault, fresh.place), fresh)
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            row.skipped = reason.removeprefix("Skipped: ")
        else:
            row.runs += 1
            row.struck += int(told.get("injected", 1))

    def text(self) -> str:
        """The page."""
        lines = [_line(_COLUMNS), _line("---" for _ in _COLUMNS)]
        for row in sorted(self.rows.values(), key=lambda row: (row.place, row.fault)):
            ran = (f"skipped: {row.skipped}", "") if row.skipped and not row.runs else (row.runs, row.struck)
            lines.append(_line((row.fault, row.injected, row.invariants, *ran, f"`{row.place}`")))
        return HEAD + "\n".join(lines) + "\n"


def _place(nodeid: str) -> str:
    return nodeid.partition("::")[0].removeprefix("tests/")


def _line(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


# --- hooks: conftest.py names this module as a plugin ---


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--page", type=Path, help="write the table of the faults here, if all passed with nothing off")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_KEY] = Page()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (mark := item.get_closest_marker("fault")) is not None:
            item.user_properties.append(("fault", dict(mark.kwargs)))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    page = config.stash[_KEY]
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                page.add(report)
    path: Path | None = config.getoption("--page")
    if path is not None and not page.failed and page.rows and not fast_paths.off():
        path.write_text(page.text())


_KEY: pytest.StashKey[Page] = pytest.StashKey()
