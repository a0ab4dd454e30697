"""`make bench` and `make bench-peers`: runs `damad bench --json`, keeps what it says, and writes docs/performance.md.

    python tests/bench/run.py [--peers [NAME …]] [-- options of damad bench]

With --peers the peers are measured first, on the same Postgres, in the same minutes. What was measured lies in
build/bench/; a page without peers of its own shows those that were measured last. Where only some lines are asked for,
they are shown here, and no page is written.
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

from damad import config
from damad.bench.figures import Document
from damad.bench.goals import GOALS
from damad.cli import render

ROOT: Final = Path(__file__).parents[2]
KEPT: Final = ROOT / "build/bench"
PAGE: Final = ROOT / "docs/performance.md"


def main(words: list[str]) -> int:
    """Measures, and writes the page. The exit code of `damad bench`."""
    ours, options = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    KEPT.mkdir(parents=True, exist_ok=True)
    environment = config.own_environment()
    with ExitStack() as stack:
        state = stack.enter_context(TemporaryDirectory(prefix="state-", dir=KEPT))
        if "--peers" in ours:
            if not BESIDE.exists():
                print(f"there are no peers: {BESIDE} does not exist", file=sys.stderr)
                return 2
            dsn = stack.enter_context(postgres())
            _keep(
                "peers.json", json.dumps(measured(BESIDE, dsn, [word for word in ours if word != "--peers"])).encode()
            )
            environment["DAMAD_PG_ENV_LOCAL_DSN"] = f"{dsn}/postgres"
        command = [sys.executable, "-P", "-m", "damad", "bench", "--json", "--state-dir", state, *options]
        # A Ctrl-C is for the bench too, which removes what it made: it is waited for, and not killed.
        signal.signal(signal.SIGINT, lambda *_: None)
        done = subprocess.run(command, stdout=subprocess.PIPE, cwd=state, env=environment, check=False)
    if not done.stdout:
        return done.returncode
    document = msgspec.json.decode(done.stdout, type=Document)
    if {line.key for line in document.lines} < {goal.key for goal in GOALS}:
        _keep("some.json", done.stdout)
        render.bench(document)
    else:
        _keep("damad.json", done.stdout)
        PAGE.write_text(page(document, _kept_peers()))
        print(f"written: {PAGE.relative_to(ROOT)}")
    return done.returncode


def _keep(name: str, content: bytes) -> None:
    (KEPT / name).write_bytes(content)


def _kept_peers() -> Any:
    path = KEPT / "peers.json"
    return json.loads(path.read_bytes()) if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
