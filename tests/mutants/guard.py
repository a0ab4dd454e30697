"""What a guard is to `make mutants`."""

from typing import NamedTuple


class Guard(NamedTuple):
    """A line or two that keep a promise: `text` in `file`, what stands there `without` it, and the tests that tell."""

    name: str
    file: str
    text: str
    without: str
    tests: tuple[str, ...]
