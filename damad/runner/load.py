"""Loads a worker's file and finds its `main`. Whatever goes wrong here is a failure of kind `load`."""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final, NamedTuple

from damad.errors import DamadError

_COMPILED: Final = 128
"""Files whose code is kept: more workers than these are in use at once on few hosts."""


class NotLoaded(DamadError):
    """The worker's file cannot be loaded. `__cause__` is what it raised, if it did."""


class Main(NamedTuple):
    """The `main` of a worker's file. takes_event: the initial event is its argument, and else it has none."""

    function: Callable[..., Any]
    takes_event: bool
    is_async: bool

    def __call__(self, initial_event: Any) -> Any:
        """What `main` returns: of an async one a coroutine."""
        return self.function(initial_event) if self.takes_event else self.function()


def read(path: Path) -> bytes | None:
    """What stands in a worker's file, or None where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def load(path: Path, source: bytes | None) -> Main:
    """The `main` of a worker's file, freshly executed. Raises NotLoaded.

    source: what was read of it (None: nothing could be). What it is known by in the log (its sha256) is what runs, and
    no file that a Python left beside it.
    The file's folder becomes the last entry of sys.path, so that a file beside it never stands in for a library.
    """
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        module = _execute(path, path.read_bytes() if source is None else source)
    except BaseException as error:  # a worker that exits or is interrupted while importing is not loaded either
        raise NotLoaded(f"{path.name} cannot be loaded: {type(error).__name__}: {error}") from error
    main: Callable[..., Any] | None = getattr(module, "main", None)
    if main is None or not callable(main):
        raise NotLoaded(f"{path.name} has no function main")
    parameters = inspect.signature(main).parameters.values()
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(required) > 1 or any(p.kind is p.KEYWORD_ONLY for p in required):
        raise NotLoaded(f"main of {path.name} takes more than the initial event")
    takes_event = any(p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in parameters)
    return Main(main, takes_event, inspect.iscoroutinefunction(main))


def module_name(path: Path) -> str:
    """What the module of a worker's file is called while it runs."""
    return f"damad_worker_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"


def _execute(path: Path, source: bytes) -> ModuleType:
    name = module_name(path)
    spec = ModuleSpec(name, SourceFileLoader(name, str(path)), origin=str(path))
    spec.has_location = True
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look modules up by name
    exec(compiled(path, source), module.__dict__)
    return module


@lru_cache(_COMPILED)
def compiled(path: Path, source: bytes) -> CodeType:
    """The code of a worker's file. The same source is compiled once a process, and once for all that it forks."""
    return compile(source, str(path), "exec", dont_inherit=True)
