"""The statements, one a file, each named as the method that runs it."""

from functools import cache
from importlib.resources import files
from typing import Final

_FOLDER: Final = files(__package__)
"""Found while importing: doing so takes import locks, which a process that forks meanwhile would never get back."""


@cache
def query(name: str) -> str:
    """The text of a statement. (Files of the package: they cannot change while it runs.)"""
    return _FOLDER.joinpath(f"{name}.sql").read_text(encoding="utf-8")
