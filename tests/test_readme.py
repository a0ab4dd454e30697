"""The README's commands do what it shows, typed by somebody who has nothing but what it says."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fast_paths
import lost_answers
import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
CONSOLE = [line for block in re.findall(r"```console\n(.*?)```", README, re.S) for line in block.splitlines()]


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """A folder with the README's worker in it, a home of its own, and a daemon."""
    home = tmp_path_factory.mktemp("newcomer")
    (home / "workers").mkdir(mode=0o755)
    worker = re.search(r"```python\n(# workers/(hello\.py)\n.*?)```", README, re.S)
    assert worker
    (home / "workers" / worker[2]).write_text(worker[1])
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DAMAD_", "XDG_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}"
    run = {**fast_paths.variables(), **lost_answers.variables()}
    place = {"cwd": home, "env": {**clean, **run, "HOME": str(home), "PATH": path}}
    daemon = subprocess.Popen(
        ["damad", "serve", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **place
    )
    assert daemon.stdout is not None and daemon.stdout.readline().startswith("damad ready on http://127.0.0.1:")
    yield place
    daemon.terminate()
    assert daemon.wait(60) == 0


def test_every_command_of_the_readme_does_what_it_shows(newcomer: dict[str, object]) -> None:
    commands = [place for place, line in enumerate(CONSOLE) if line.startswith("$ ")]
    assert len(commands) > 5
    for place in commands:
        command, shown = CONSOLE[place][2:], CONSOLE[place + 1 : place + 2]
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120, **newcomer)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        if shown and not shown[0].startswith("$ "):
            assert done.stdout.strip() == shown[0], command


def test_the_second_worker_of_the_readme_runs_too(newcomer: dict[str, object]) -> None:
    worker = re.search(r"```python\n(from damad import context.*?)```", README, re.S)
    assert worker
    Path(str(newcomer["cwd"]), "workers", "second.py").write_text(worker[1])
    done = subprocess.run(
        ["damad", "queue", "second.py", "--wait"], capture_output=True, text=True, timeout=120, **newcomer
    )
    assert (done.returncode, done.stdout) == (0, '{"greeting":"hello child"}\n'), done.stderr
