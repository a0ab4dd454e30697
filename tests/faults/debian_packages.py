"""What a fault needs that is no Python: installed from Debian where that can be done, else its test is skipped."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

_APT: Final = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=60")


def program(name: str, *, package: str) -> Path:
    """The path of a program, which is installed if it is missing. Skips the test where it cannot be had."""
    return _had(package, lambda: [Path(found)] if (found := shutil.which(name)) else [])


def library(name: str, *, package: str) -> Path:
    """The path of a shared library, which is installed if it is missing. Skips the test where it cannot be had."""
    return _had(package, lambda: sorted(Path("/usr/lib").glob(f"**/{name}")))


def _had(package: str, find: Callable[[], list[Path]]) -> Path:
    if not find():
        _install(package)
    found = find()
    if not found:
        pytest.skip(f"{package} is not installed and cannot be")
    return found[0]


def _install(package: str) -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    for command in (("update",), ("install", "-y", "--no-install-recommends", package)):
        subprocess.run([*_APT, *command], stdin=subprocess.DEVNULL, capture_output=True, check=False)
