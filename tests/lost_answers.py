"""A whole run of the tests in which the database's answers get lost: `make test LOST=5`, five in a hundred.

The statement is executed and its answer never arrives, in this process and in all that a test starts. What damad
promises holds all the same. A test that cannot be asked for it is marked `answered`, with the reason, and left out.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from damad import failpoints


def variables() -> dict[str, str]:
    """What a command has in its environment for that: a statement that is sent again loses its answer."""
    return failpoints.environment()


def of_a_daemon() -> dict[str, str]:
    """What a daemon has: it goes on whatever loses its answer, a claim and a COMMIT too."""
    return {name: f"{armed}:all" for name, armed in variables().items()}


def first_time() -> tuple[int, ...]:
    """How an append that its sender named is answered the first time: 200 where damad had to send it again."""
    return (200, 201) if failpoints.environment() else (201,)


@contextmanager
def every_one() -> Iterator[None]:
    """Inside, no answer arrives but to a statement that is sent for the last time."""
    before = failpoints.arm(f"{failpoints.LOSES}:1:all")
    try:
        yield
    finally:
        failpoints.arm(before)


# --- hooks: conftest.py names this module as a plugin ---


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lost", type=float, default=0.0, metavar="PERCENT", help="answers of the database that get lost")


def pytest_configure(config: pytest.Config) -> None:
    percent = config.getoption("--lost")
    if percent:
        os.environ["DAMAD_FAILPOINT"] = f"{failpoints.LOSES}:{percent / 100}"
        failpoints.arm(os.environ["DAMAD_FAILPOINT"])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--lost"):
        return
    for item in items:
        if marker := item.get_closest_marker("answered"):
            item.add_marker(pytest.mark.skip(reason=f"needs every answer: {marker.args[0]}"))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if percent := config.getoption("--lost"):
        terminalreporter.write_line(f"{percent:g} % of the database's answers were lost")
