"""The fixtures. Pytest loads this wherever damad is installed, so what they need is imported when one is asked for."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from damad.testing.server import Server
    from damad.testing.trials import Trials


@pytest.fixture(scope="session")
def damad_server(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Server]":
    """A Postgres of damad's own that is there for this session of tests, and no longer."""
    from damad.testing.server import started

    with started(tmp_path_factory.mktemp("damad")) as server:
        yield server


@pytest.fixture
def damad(damad_server: "Server", tmp_path: Path) -> "Iterator[Trials]":
    """Runs workers in this process, on a database of this test alone."""
    from damad.testing.trials import Trials

    with damad_server.database() as database:
        yield Trials(database, tmp_path / "damad")
