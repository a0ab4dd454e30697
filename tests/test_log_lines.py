"""Log lines: as text or as JSON, and each says of which context and of which trace it is."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from daemon_support import daemon_on, site_of, until

from damad import config, context, stderrlog
from damad.context import EtlContext
from damad.errors import ConfigError

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"

LINES = """
import logging, sys, structlog
from damad import context, stderrlog
from damad.context import EtlContext

stderrlog.configure(logging.INFO, form=sys.argv[1], about=context.log_fields)
with context.run_in(EtlContext(pg_env="main", etl_context_id=7, traceparent=sys.argv[2])):
    structlog.get_logger("one").info("structured", number=1, odd={1, 2}.__class__, etl_context_id=8)
    logging.getLogger("two").warning("plain %s", "\\ud800 and\\nlines")
    secret = "hidden"
    try:
        1 / 0
    except ZeroDivisionError:
        structlog.get_logger("three").exception("failed")
structlog.get_logger("four").info("outside")
"""

SAYS = """
import threading
from damad import context

async def main():
    logger = context.current().logger
    logger.info("from %s", "main")
    thread = threading.Thread(target=lambda: logger.warning("from a thread"))
    thread.start()
    thread.join()
    raise ValueError("no")
"""

DIES = """
import os, signal

def main():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def printed(form: str) -> str:
    command = [sys.executable, "-P", "-c", LINES, form, PARENT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr


def test_a_json_line_says_what_where_and_of_which_trace() -> None:
    structured, plain, failed, outside = [json.loads(line) for line in printed("json").splitlines()]
    for line in (structured, plain, failed, outside):
        assert line.pop("timestamp").endswith("Z")
    about = {"pg_env": "main", "etl_context_id": 7, "trace_id": TRACE}
    assert structured == {
        **about, "event": "structured", "logger": "one", "level": "info", "number": 1, "odd": "<class 'set'>",
        "etl_context_id": 8,
    }  # fmt: skip
    assert plain == {**about, "event": "plain \ud800 and\nlines", "logger": "two", "level": "warning"}
    assert "ZeroDivisionError" in failed.pop("exception")
    assert failed == {**about, "event": "failed", "logger": "three", "level": "error"}
    assert outside == {"event": "outside", "logger": "four", "level": "info"}


def test_a_line_of_text_says_so_too_and_shows_no_local_variable() -> None:
    text = printed("text")
    assert f"trace_id={TRACE}" in text and "etl_context_id=8" in text and "ZeroDivisionError" in text
    assert "hidden" not in text.replace('secret = "hidden"', "")


def test_the_process_of_a_worker_writes_the_same_names() -> None:
    formatter = stderrlog.formatter("json", context.log_fields)
    record = logging.LogRecord("damad.worker", logging.WARNING, "", 1, "%s", ("said",), None)
    with context.run_in(EtlContext(pg_env="main", etl_context_id=7, attempt=2, traceparent=PARENT)):
        line = json.loads(formatter.format(record))
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "pg_env": "main", "etl_context_id": 7, "attempt": 2, "trace_id": TRACE, "event": "said",
        "logger": "damad.worker", "level": "warning",
    }  # fmt: skip


def test_another_format_is_refused_with_its_name() -> None:
    assert config.load(environ={"HOME": "/nowhere"}).log_format == "text"
    with pytest.raises(ConfigError, match="log_format: 'xml' is neither text nor json"):
        config.load(environ={"HOME": "/nowhere", "DAMAD_LOG_FORMAT": "xml"})


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("run_in", ["process", "daemon"])
async def test_all_that_a_daemon_and_its_workers_log_of_a_task_has_its_id_and_its_trace(
    template: str, tmp_path: Path, run_in: str
) -> None:
    async with site_of(tmp_path, template, DAMAD_LOG_FORMAT="json") as site, daemon_on(site) as daemon:
        outcome = await site.run(SAYS, meta={"traceparent": PARENT}, retry_limit=0, run_in=run_in)
        assert outcome.state == "failed"
        about = {"pg_env": "local", "etl_context_id": outcome.id, "attempt": 1, "trace_id": TRACE}
        said = lines_of(await site.log(outcome.id))
        assert [line["event"] for line in said] == ["from main", "from a thread"]
        assert [{name: line[name] for name in about} for line in said] == [about] * 2
    assert len(lines_of(daemon.log)) == len(daemon.log.splitlines())


async def test_what_the_daemon_says_of_a_process_that_was_killed_has_its_trace(template: str, tmp_path: Path) -> None:
    async with site_of(tmp_path, template, DAMAD_LOG_FORMAT="json") as site, daemon_on(site) as daemon:
        outcome = await site.run(DIES, meta={"traceparent": PARENT}, retry_limit=0)

        def said() -> list[dict[str, Any]]:
            return [line for line in lines_of(daemon.log) if line["event"] == "an attempt failed"]

        await until(lambda: len(said()) == 1, lambda: daemon.log)
        assert (said()[0]["etl_context_id"], said()[0]["trace_id"]) == (outcome.id, TRACE)
