"""Executed, then lost: one in twenty answers of the database never arrives, and everybody gets along all the same."""

import asyncio
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fast_paths
import pytest

TESTS = Path(__file__).parent.parent
CORE = ("events", "tasks", "eventstore", "lifecycle_table", "http_events", "http_tasks", "http_contexts")


@pytest.mark.fault(
    fault="the answer to a statement that was executed is lost",
    injected="one in twenty answers of the database, over the tests of the core and of its HTTP front",
    invariants="I1 I2 I3 I8 I11",
)
async def test_the_tests_of_the_core_pass(record_property: Callable[[str, Any], None]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--lost=5", *fast_paths.options(),
        *(str(TESTS / f"test_{name}.py") for name in CORE),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        cwd=TESTS.parent,
    )  # fmt: skip
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said[-5000:]
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None, said[-500:]
    record_property("injected", int(passed[1]))
