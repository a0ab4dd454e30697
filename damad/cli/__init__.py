"""The command line: decode the words, call a function of the core, print what it says. One module a group of commands.

Exit code 0 means it happened. 1: the task failed, or a check found something. 2: refused, with one line on stderr.
"""

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from cyclopts.exceptions import UnusedCliTokensError

from damad import __version__
from damad.cli.access import listed as listed_tokens
from damad.cli.queues import listed
from damad.errors import DamadError

_REFUSED = 2

_COMMANDS = {
    "serving:serve": "Run the daemon.",
    "serving:migrate": "Make the schema, or bring an older one up to date.",
    "queueing:queue": "Queue a task; with --wait, print its result.",
    "running:run": "Run a worker here, without a daemon, under a debugger if asked.",
    "looking:tasks": "List tasks.",
    "looking:show": "Show a context: its state, its tree, its events.",
    "looking:events": "Print events, and with --follow each new one.",
    "looking:logs": "Print what a worker printed.",
    "queueing:cancel": "Ask a task to stop.",
    "queueing:retry": "Queue a failed or cancelled task again.",
    "scheduling:schedules": "List schedules; add, remove, pause, resume, trigger one.",
    "checking:verify": "Compare every projection with its events.",
    "checking:doctor": "Look for what is wrong around the log, and say what to do.",
    "archiving:archive": "Move what has ended out of the log into a file, or back.",
    "benching:bench": "Measure how fast damad is here, beside what this machine can do at best.",
    "checking:rebuild": "Write every projection again that is not what its events say.",
}
"""Each command: its function, loaded when it is called, and what `damad --help` says of it."""
_QUEUES = {
    "pause": "Take nothing more from a queue; what runs goes on.",
    "resume": "Take tasks from a queue again.",
    "set_": "Set how a queue runs, and the settings of tasks that do not say; makes it if need be.",
}
"""What `damad queues` does beside listing them."""
_TOKENS = {
    "add": "Make a token and print it; with --pg-env it is good for that pg_env alone.",
    "revoke": "Take a token back.",
}
"""What `damad tokens` does beside listing them."""


def _app() -> App:
    app = App(
        name="damad",
        help="Runs ETL tasks in processes of their own, with an event log in Postgres as the only truth.",
        version=f"damad {__version__}",
        help_flags=["--help", "-h"],
        result_action="return_value",
    )
    for place, help_ in _COMMANDS.items():
        app.command(f"damad.cli.{place}", help=help_)
    queues = App(name="queues", help="List the queues, pause and resume them, set how they run.")
    queues.default(listed)
    for place, help_ in _QUEUES.items():
        queues.command(f"damad.cli.queues:{place}", name=place.rstrip("_"), help=help_)
    app.command(queues)
    tokens = App(name="tokens", help="List the tokens for HTTP; add one, revoke one.")
    tokens.default(listed_tokens)
    for place, help_ in _TOKENS.items():
        tokens.command(f"damad.cli.access:{place}", name=place, help=help_)
    app.command(tokens)
    systemd = App(name="systemd", help="Print the systemd unit.")
    systemd.command("damad.cli.serving:print_unit", name="print", help="Print a unit that runs `damad serve`.")
    app.command(systemd)
    return app


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command that the words name, and exits with its code."""
    sys.exit(run(sys.argv[1:] if words is None else words))


def run(words: Sequence[str]) -> int:
    """Runs the command that the words name and returns its exit code. What is refused is one line on stderr."""
    app = _app()
    try:
        if not words:
            app.help_print()
            return 0
        code = app(list(words), exit_on_error=False, print_error=False)
    except UnusedCliTokensError as error:
        return _refuse(f"too many words: {' '.join(map(repr, error.unused_tokens or []))}", _REFUSED)
    except CycloptsError as error:
        return _refuse(" ".join(str(error).split()), _REFUSED)
    except DamadError as error:
        return _refuse(_said(error), error.exit_code)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # who read our output has gone; there is nobody left to tell
        return 141
    return code if isinstance(code, int) else 0


def _said(error: DamadError) -> str:
    """The error as one line, which names the field that is to blame."""
    line = " ".join(str(error).split())
    field = (getattr(error, "pointer", None) or "").rpartition("/")[2]
    return line if field in line else f"{field}: {line}"


def _refuse(line: str, exit_code: int) -> int:
    print(f"damad: {line}", file=sys.stderr)
    return exit_code
