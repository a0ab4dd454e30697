"""A whole run of the tests with a fast path of damad off: `make test OFF=fork_server`, `make faults OFF=group_appends`.

What damad promises depends on none of them. Whatever a test serves with has those that the run has; a test that is
about one asks for it by name, and so has it in every run.
"""

import os
from typing import Any, Final

import pytest

FAST_PATHS: Final = ("fork_server", "group_appends")
"""The settings that are such a path, each of them on by default."""


def off() -> list[str]:
    """The fast paths that this run has off."""
    return [name for name in FAST_PATHS if _variable(name) in os.environ]


def variables() -> dict[str, str]:
    """What a daemon has in its environment for that."""
    return {_variable(name): "false" for name in off()}


def settings() -> dict[str, bool]:
    """The same as settings, for a test that serves in its own process."""
    return {name: name not in off() for name in FAST_PATHS}


def options() -> list[str]:
    """What a pytest that a test starts is told of it."""
    return [f"--off={name}" for name in off()]


def _variable(name: str) -> str:
    return f"DAMAD_{name.upper()}"


# --- hooks: conftest.py names this module as a plugin ---


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--off", action="append", default=[], choices=FAST_PATHS, help="run without this fast path")


def pytest_configure(config: pytest.Config) -> None:
    for name in FAST_PATHS:
        os.environ.pop(_variable(name), None)
        if name in config.getoption("--off"):
            os.environ[_variable(name)] = "false"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for name in off():
        terminalreporter.write_line(f"{name} was off, but for the tests that are about it")
