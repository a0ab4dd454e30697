"""Runs a worker on Node.js: a process beside this one, which starts it, answers its calls and hears what became of it.

The process that reports stays damad's own, as for any worker: its pid is in STARTED, its lease is renewed, its exit is
on record. `node_shim.mjs` is what node runs around `main`; the two speak over a pair of pipes. However node ends, this
process ends so too, where no result came before.
"""

import json
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

from damad import background, context, events, tasks, workerfile
from damad.errors import DamadError
from damad.model import json_value
from damad.model.retry import Failure
from damad.runner.load import NotLoaded
from damad.runner.outcome import Thrown, Unrecordable

_INSPECTED_AT: Final = "127.0.0.1:9229"
"""Where `--debug` waits for a client: Node.js' own default."""
_SHIM: Final = Path(__file__).with_name("node_shim.mjs")
_OVER: Final = {"over": True}
"""What this process says to itself once node has ended: all that node said stands before it."""
_CALLS: Final[dict[str, Callable[..., Coroutine[Any, Any, Any]]]] = {
    "dispatch": events.dispatch,
    "read": events.read,
    "progress": tasks.progress,
    "heartbeat": tasks.heartbeat,
}


class Ended(BaseException):
    """Node ended by an exit code or a signal, and said nothing of a result."""

    def __init__(self, code: int) -> None:
        super().__init__(f"signal {-code}" if code < 0 else f"exit code {code}")
        self.code = code

    def failure(self, attempt: int) -> Failure:
        """What its exit record would prove, for whoever does not end with it."""
        if self.code < 0:
            message = f"the process was killed by signal {-self.code}"
            return Failure(attempt=attempt, kind="signal", message=message, signal=-self.code)
        message = f"the process ended with exit code {self.code} and no report"
        return Failure(attempt=attempt, kind="exit", message=message, exit_code=self.code)

    def follow(self) -> NoReturn:
        """Ends this process as node ended."""
        if self.code < 0:
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
            with suppress(OSError):  # SIGKILL is what it is
                signal.signal(-self.code, signal.SIG_DFL)
            os.kill(os.getpid(), -self.code)
        os._exit(self.code & 0xFF)


def call(worker: Path, initial_event: dict[str, Any] | None, *, inspected: bool = False) -> Any:
    """What `main` of a worker returned. `inspected`: node waits for a debugger first.

    Raises Thrown, Unrecordable, NotLoaded; and Ended where node ended without a word.
    """
    ambient = context.current()
    (hear, their_calls), (their_answers, answer) = os.pipe(), os.pipe()
    with open(hear, "rb") as calls, open(their_calls, "wb", 0) as last_word, open(answer, "wb", 0) as answers:
        with open(their_answers, "rb"):  # once node has it, this process must not
            node = _start(worker, inspected, give=(their_calls, their_answers))
        with _forwarded(node):
            conversation = _Conversation(calls, answers)
            conversation.begin(_beginning(ambient, initial_event, inspected))
            code = node.wait()
        if code < 0:  # whatever is still being answered: nobody is there to hear it
            os.set_blocking(their_calls, False)
            _write(last_word, _OVER)
            raise Ended(code)
        _write(last_word, _OVER)
        return _result(conversation.end(), code, worker)


def _start(worker: Path, inspected: bool, *, give: tuple[int, int]) -> "subprocess.Popen[bytes]":
    """In a session of its own, so that a signal to this process' session does not come to it twice."""
    node = workerfile.node()
    if node is None:
        raise NotLoaded(f"{worker.name} {workerfile.NO_NODE}")
    options = [f"--inspect-brk={_INSPECTED_AT}"] if inspected else []
    command = [node, *options, str(_SHIM), str(worker), *map(str, give)]
    try:
        return subprocess.Popen(command, pass_fds=give, start_new_session=True)
    except OSError as error:
        raise NotLoaded(f"Node.js cannot be started: {error}") from error


@contextmanager
def _forwarded(node: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Whoever asks this process to stop asks node: what its `main` still does is waited for."""

    def forward(number: int, _frame: object) -> None:
        node.send_signal(number)

    heard = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, forward) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _beginning(ambient: context.EtlContext, initial_event: dict[str, Any] | None, inspected: bool) -> dict[str, Any]:
    described = {
        "pg_env": ambient.pg_env,
        "etl_context_id": ambient.etl_context_id,
        "parent_context_id": ambient.parent_context_id,
        "attempt": ambient.attempt,
        "work_dir": None if ambient.work_dir is None else str(ambient.work_dir),
    }
    dsn = ambient.store.database.dsn
    return {"initial_event": initial_event, "context": described, "dsn": dsn, "debug": inspected}


class _Conversation:
    """What node says, and what it is answered: one call after the other, so that events stand in the log as they were
    dispatched. A thread of its own reads; this one waits for node."""

    def __init__(self, calls: BinaryIO, answers: RawIOBase) -> None:
        self._calls, self._answers = calls, answers
        self._said: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._listen, name="damad node", daemon=True)

    def begin(self, first: dict[str, Any]) -> None:
        """Says the first word, and listens from then on."""
        self._thread.start()
        self._answer(first)

    def end(self) -> dict[str, Any]:
        """What node said of its result, once all that it said is heard."""
        self._thread.join()
        return self._said

    def _listen(self) -> None:
        with suppress(ValueError):  # closed meanwhile, for nobody waits for what node said
            for line in self._calls:
                message = _read(line)
                if message == _OVER:
                    return
                if "call" in message:
                    self._answer({"answer": message["call"], **_called(message)})
                elif not self._said:
                    self._said = message

    def _answer(self, message: dict[str, Any]) -> None:
        with suppress(OSError, ValueError):  # node has ended, and nobody hears it
            _write(self._answers, message)


def _called(message: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": background.run(_CALLS[message["name"]](*message["arguments"]))}
    except DamadError as error:
        return {"error": {"name": type(error).__name__, "message": str(error), "values": error.values}}
    except Exception as error:  # noqa: BLE001 - whatever it is, the worker that called waits for an answer
        return {"error": {"name": type(error).__name__, "message": str(error), "values": {}}}


def _result(said: dict[str, Any], code: int, worker: Path) -> Any:
    match said:
        case {"returned": value}:
            return value
        case {"bad_result": why}:
            raise Unrecordable(why)
        case {"thrown": thrown}:
            raise _thrown(thrown)
        case {"not_loaded": thrown}:
            raise NotLoaded(f"{worker.name} cannot be loaded: {_thrown(thrown)}") from _thrown(thrown)
    raise Ended(code)


def _thrown(said: dict[str, Any]) -> Thrown:
    return Thrown(
        f"{said['name']}: {said['message']}" if said["message"] else said["name"],
        name=said["name"],
        stack=said["stack"],
        retryable=said.get("retryable", True),
        retry_in=said.get("retry_in"),
        snooze=said.get("snooze"),
    )


def _read(line: bytes) -> dict[str, Any]:
    """A message; an empty one for what is none: a line that node could not write to its end."""
    try:
        message = json.loads(line, parse_int=_number)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _number(digits: str) -> int | float:
    """In JavaScript every number is a double, also one that is written without a point."""
    number = int(digits)
    return number if json_value.INT_MIN <= number <= json_value.INT_MAX else float(number)


def _write(file: RawIOBase, message: dict[str, Any]) -> None:
    text = b"\n" * (message == _OVER) + json.dumps(message).encode() + b"\n"
    while text and (written := file.write(text)) is not None:  # None: it is full, and must not be waited for
        text = text[written:]
