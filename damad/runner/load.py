"""Loads a worker's file and finds its `main`. Whatever goes wrong here is a failure of kind `load`."""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from damad.errors import DamadError


class NotLoaded(DamadError):
    """The worker's file cannot be loaded. `__cause__` is what it raised, if it did."""


def sha256(path: Path) -> str | None:
    """The fingerprint of a worker's file, or None where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def load(path: Path) -> Callable[..., Any]:
    """The `main` of a worker's file, freshly executed. Raises NotLoaded.

    The file's folder becomes the last entry of sys.path, so that a file beside it never stands in for a library.
    """
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        module = _execute(path)
    except BaseException as error:  # a worker that exits or is interrupted while importing is not loaded either
        raise NotLoaded(f"{path.name} cannot be loaded: {type(error).__name__}: {error}") from error
    main: Callable[..., Any] | None = getattr(module, "main", None)
    if main is None or not callable(main):
        raise NotLoaded(f"{path.name} has no function main")
    if not _takes_at_most_one(main):
        raise NotLoaded(f"main of {path.name} takes more than the initial event")
    return main


def _execute(path: Path) -> ModuleType:
    name = f"damad_worker_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look modules up by name
    spec.loader.exec_module(module)
    return module


def takes_event(main: Callable[..., Any]) -> bool:
    """True if `main` takes a parameter: the initial event."""
    return bool(_positional(main))


def is_async(main: Callable[..., Any]) -> bool:
    """True if `main` is an async function."""
    return inspect.iscoroutinefunction(main)


def _positional(main: Callable[..., Any]) -> list[inspect.Parameter]:
    kinds = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    return [parameter for parameter in inspect.signature(main).parameters.values() if parameter.kind in kinds]


def _takes_at_most_one(main: Callable[..., Any]) -> bool:
    parameters = inspect.signature(main).parameters.values()
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return len(required) <= 1 and all(p.kind is not p.KEYWORD_ONLY for p in required)
