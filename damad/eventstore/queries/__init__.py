"""The statements, one a file, each named as the method that runs it."""

from functools import cache
from importlib.resources import files


@cache
def query(name: str) -> str:
    """The text of a statement. (Files of the package: they cannot change while it runs.)"""
    return files(__package__).joinpath(f"{name}.sql").read_text(encoding="utf-8")
