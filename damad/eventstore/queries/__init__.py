"""The statements, one a file, each named as the method that runs it."""

from functools import cache
from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent
"""No `importlib.resources`: it takes import locks, which a process that forks meanwhile would never get back, and loads
what each worker's process would have with it."""


@cache
def query(name: str) -> str:
    """The text of a statement. (Files of the package: they cannot change while it runs.)"""
    return (_FOLDER / f"{name}.sql").read_text(encoding="utf-8")
