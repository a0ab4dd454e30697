"""Has the peers measure themselves, where their bench lies beside the checkout, on a Postgres that damad gets too."""

import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from damad.eventstore import embedded

BESIDE: Final = Path(os.environ.get("PEERS_RUN") or Path(__file__).parents[3] / "shared/bench/peers/run")
"""What runs their benches. PEERS_RUN names another place."""
_PATIENCE: Final = 1800
_FIGURES: Final = re.compile(r"(/s|latency).* [0-9.]+$")
"""A line that holds a figure, among what else they say."""


@contextmanager
def postgres() -> Iterator[str]:
    """The DSN, without a database, of a throw-away Postgres on a port of this machine. PEERS_PG names another one.

    It asks for a password that nobody else has: on a port, any account of this machine could connect.
    """
    if given := os.environ.get("PEERS_PG"):
        yield given.rstrip("/")
        return
    with TemporaryDirectory(prefix="damad-peers-", dir=_disk()) as folder:
        password, port = secrets.token_hex(16), _free_port()
        (Path(folder) / "password").write_text(password)
        data, options = f"{folder}/data", f"-c listen_addresses=127.0.0.1 -c port={port} -c max_connections=300"
        _run(folder, "initdb", "-D", data, "-U", "damad", "--auth=scram-sha-256", f"--pwfile={folder}/password",
             "--encoding=UTF8", "--no-locale")  # fmt: skip
        _run(
            folder,
            "pg_ctl",
            "-D",
            data,
            "-l",
            f"{folder}/log",
            "-o",
            f"{options} -c max_connections=300",
            "-w",
            "start",
        )
        try:
            yield f"postgresql://damad:{password}@127.0.0.1:{port}"
        finally:
            _run(folder, "pg_ctl", "-D", data, "-m", "fast", "-w", "stop")


def measured(script: Path, dsn: str, names: list[str]) -> dict[str, Any]:
    """What the peers print, line by line. `names`: of those that are asked; none means all."""
    began = datetime.now(UTC).isoformat(timespec="seconds")
    path = f"{embedded._binaries()}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(script), *names], stdout=subprocess.PIPE, text=True, check=False, timeout=_PATIENCE,
        env={**os.environ, "PEERS_PG": dsn, "PATH": path},
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if _FIGURES.search(line)]
    print(*lines, sep="\n", file=sys.stderr)
    return {"began": began, "lines": lines}


def _run(folder: str, program: str, *arguments: str) -> None:
    command = [*embedded._as_ordinary_user(), str(embedded._binaries() / program), *arguments]
    with (Path(folder) / "said").open("ab") as said:  # a file and no pipe: the server inherits it
        subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=folder, env=embedded._environment(),
            check=True,
        )  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _disk() -> Path:
    """A folder of the checkout: a temporary one may lie in memory, where nothing costs what it costs on a disk."""
    build = Path(__file__).parents[2] / "build/bench"
    build.mkdir(parents=True, exist_ok=True)
    return build
