"""A site and a daemon for the tests that break them. What is different there, a module says in its SETTINGS."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, daemon_on, site_of, until

SETTINGS = {"DAMAD_GRACE": "500ms", "DAMAD_POLL_INTERVAL": "500ms", "DAMAD_QUEUE_DEFAULT_RETRY_DELAY": "10ms"}


@pytest_asyncio.fixture
async def site(request: pytest.FixtureRequest, template: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with site_of(tmp_path, template, **SETTINGS | getattr(request.module, "SETTINGS", {})) as site:
        yield site


@pytest_asyncio.fixture
async def daemon(site: Site) -> AsyncIterator[Daemon]:
    """A daemon that runs; at the end it is alone, nothing is left of any run, and no round of it failed."""
    async with daemon_on(site) as daemon:
        yield daemon
        await daemon.quiet()
        await nothing_is_left_of_any_run(site)
    await site.verified()


async def nothing_is_left_of_any_run(site: Site) -> None:
    """Returns once no run has records any more."""
    runs = site.state_dir / "runs" / "local"
    await until(lambda: not runs.exists() or not list(runs.iterdir()), lambda: list(runs.iterdir()))
