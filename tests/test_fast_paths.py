"""A run without a fast path is one: whatever the tests serve with goes without it, unless a test asks for it."""

from pathlib import Path

import fast_paths
import pytest
from daemon_support import Site

from damad import config

OTHER = {"fork_server": "group_appends", "group_appends": "fork_server"}


@pytest.fixture(params=fast_paths.FAST_PATHS)
def off(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The one that this run has off, as far as the test sees."""
    for name in fast_paths.FAST_PATHS:
        monkeypatch.delenv(f"DAMAD_{name.upper()}", raising=False)
    monkeypatch.setenv(f"DAMAD_{request.param.upper()}", "false")
    return str(request.param)


def configured(folder: Path, **settings: str) -> config.Config:
    """What a daemon of a site finds in its environment."""
    return config.load(environ=Site(folder, {}, **settings).environment)


def test_a_daemon_has_it_off_and_the_others_on(tmp_path: Path, off: str) -> None:
    found = configured(tmp_path)
    assert (getattr(found, off), getattr(found, OTHER[off])) == (False, True)
    assert fast_paths.settings() == {off: False, OTHER[off]: True}
    assert fast_paths.options() == [f"--off={off}"]


def test_a_test_that_is_about_it_has_it_all_the_same(tmp_path: Path, off: str) -> None:
    assert getattr(configured(tmp_path, **{f"DAMAD_{off.upper()}": "true"}), off)
