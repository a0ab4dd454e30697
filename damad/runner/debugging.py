"""Runs a call under a debugger, for `damad run --pdb` and `--debug`."""

import dis
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any, Final

from damad import workerfile
from damad.errors import ConfigError, InvalidInput

PORT: Final = 5678
"""Where `--debug` waits for a client: debugpy's own default."""

INSPECTOR: Final = "inspector"
"""The debugger of Node.js, which brings it along: node.py."""

Call = Callable[[], Any]
Debugger = Callable[[Call, Callable[..., Any]], Any]
"""Calls the first, which ends up in the second: the worker's main."""


def chosen(worker: str, *, debug: bool, pdb: bool) -> str | None:
    """The name of the debugger that `--debug` or `--pdb` means for that worker, asked before anything happens.

    Raises ConfigError where it is not installed, and InvalidInput for a language that it does not speak.
    """
    if workerfile.runs_on_node(Path(worker)):
        if pdb:
            raise InvalidInput("--pdb is for workers in Python; with --debug Node.js waits for a debugger")
        return INSPECTOR if debug else None
    name = "debugpy" if debug else "pdb" if pdb else None
    if name is not None:
        require(name)
    return name


def require(name: str) -> None:
    """Makes sure that the debugger of that name is installed. Raises ConfigError."""
    if name == "debugpy" and importlib.util.find_spec("debugpy") is None:
        raise ConfigError("--debug needs debugpy: pip install 'damad[debug]'")


def debugger(name: str | None) -> Debugger:
    """The debugger of that name: pdb, debugpy, or none."""
    return {"pdb": _under_pdb, "debugpy": _under_debugpy}.get(name or "", _plain)


def _plain(call: Call, _main: Callable[..., Any]) -> Any:
    return call()


def _under_pdb(call: Call, main: Callable[..., Any]) -> Any:
    """Stops at the first line of main, and again where it raises."""
    import pdb  # loads much, and is forked into every worker's process where it is there

    session = pdb.Pdb()
    code = inspect.unwrap(main).__code__
    session.set_break(code.co_filename, _first_line(code), temporary=True)
    session.rcLines = ["continue"]
    try:
        return session.runcall(call)
    except Exception:
        traceback = sys.exc_info()[2]
        print("main raised; quit the debugger to record it as the attempt's failure", file=sys.stderr)
        pdb.post_mortem(traceback)
        raise


def _first_line(code: CodeType) -> int:
    """Where the body begins: after decorators, a signature of many lines, a docstring and comments."""
    lines = [line for _, line in dis.findlinestarts(code) if line is not None]
    return next((line for line in lines if line != lines[0]), lines[0])


def _under_debugpy(call: Call, _main: Callable[..., Any]) -> Any:
    require("debugpy")
    import debugpy

    debugpy.listen(("127.0.0.1", PORT))
    print(f"damad: waiting for a debugger on 127.0.0.1:{PORT}", file=sys.stderr, flush=True)
    debugpy.wait_for_client()
    return call()
