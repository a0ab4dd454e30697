"""`make bench` and `make bench-peers`: runs `damad bench --json`, keeps what it says, and writes docs/performance.md.

    python tests/bench/run.py [--peers [NAME …]] [-- options of damad bench]

With --peers the peers are measured first, on the same Postgres, in the same minutes; figures of theirs that are older
would say nothing beside damad's. What was measured lies in build/bench/. Where only some lines are asked for, they are
shown here, and no page is written.
"""

import json
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
from page import page
from peers import BESIDE, measured, postgres
from plot import plot

from damad import config
from damad.bench.figures import Document
from damad.bench.goals import GOALS
from damad.cli import render

ROOT: Final = Path(__file__).parents[2]
KEPT: Final = ROOT / "build/bench"
PAGE: Final = ROOT / "docs/performance.md"
PLOT: Final = ROOT / "docs/growth.svg"


def main(words: list[str]) -> int:
    """Measures, and writes the page. The exit code of `damad bench`."""
    ours, options = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    if "--peers" in ours and not BESIDE.exists():
        print(f"there are no peers: {BESIDE} does not exist", file=sys.stderr)
        return 2
    KEPT.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        dsn, peers = None, None
        if "--peers" in ours:
            dsn = stack.enter_context(postgres())
            peers = measured(BESIDE, dsn, [word for word in ours if word != "--peers"])
            _keep("peers.json", json.dumps(peers).encode())
        done = _bench(options, dsn)
    if done.stdout:
        _show(msgspec.json.decode(done.stdout, type=Document), done.stdout, peers)
    return done.returncode


def _bench(options: list[str], dsn: str | None) -> "subprocess.CompletedProcess[bytes]":
    """Runs damad's own, on the embedded Postgres or on the server of that DSN."""
    environment = config.own_environment() | ({"DAMAD_PG_ENV_LOCAL_DSN": f"{dsn}/postgres"} if dsn else {})
    # A Ctrl-C is for the bench too, which removes what it made: it is waited for, and not killed.
    signal.signal(signal.SIGINT, lambda *_: None)
    with TemporaryDirectory(prefix="state-", dir=KEPT) as state:
        command = [sys.executable, "-P", "-m", "damad", "bench", "--json", "--state-dir", state, *options]
        return subprocess.run(command, stdout=subprocess.PIPE, cwd=state, env=environment, check=False)


def _show(document: Document, said: bytes, peers: Any) -> None:
    if {line.key for line in document.lines} < {goal.key for goal in GOALS}:
        _keep("some.json", said)
        render.bench(document)
        return
    _keep("damad.json", said)
    PAGE.write_text(page(document, peers))
    PLOT.write_text(plot(document.curves, {goal.key: goal.title.split(",")[0] for goal in GOALS}))
    print(f"written: {PAGE.relative_to(ROOT)}, {PLOT.relative_to(ROOT)}")


def _keep(name: str, content: bytes) -> None:
    (KEPT / name).write_bytes(content)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
