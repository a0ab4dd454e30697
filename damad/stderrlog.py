"""Where log lines go: to stderr, those of libraries too, without secrets. stdout belongs to what a command prints.

As text, for people, or each as a JSON object with `timestamp`, `level`, `logger`, `event`, `exception` if there is one,
and whatever else the line says: the same names in the daemon and in the processes of workers.
"""

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from damad.masking import masked

TEXT, JSON = "text", "json"
FORMATS: Final = (TEXT, JSON)

About = Callable[[], dict[str, Any]]
"""What a line says of where it is written, unless it says so itself."""


def configure(level: int, *, form: str = TEXT, about: About = dict) -> None:
    """Log lines of this level and above go to stderr, structured ones and plain ones in one form."""
    # Not for the processes of workers: each would pay for it.
    import structlog

    class _Masking(structlog.stdlib.ProcessorFormatter):
        """Writes lines, with tracebacks, out of which every secret is taken."""

        def format(self, record: logging.LogRecord) -> str:
            return masked(super().format(record))

    def add_about(_logger: Any, _method: str, said: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**about(), **said}

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        add_about,
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, _as_json]
        if form == JSON
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_plain_traceback)]
    )
    named = [structlog.stdlib.add_logger_name] if form == JSON else []
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stderr)
    last = [*named, structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
    handler.setFormatter(_Masking(foreign_pre_chain=shared, processors=last))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def formatter(form: str, about: About = dict) -> logging.Formatter:
    """For the process of a worker, whose lines go to the log of its attempt."""
    return _Json(about) if form == JSON else logging.Formatter("%(asctime)s %(levelname)s %(message)s")


class _Json(logging.Formatter):
    """A line as a JSON object."""

    def __init__(self, about: About) -> None:
        super().__init__()
        self._about = about

    def format(self, record: logging.LogRecord) -> str:
        said = {
            **self._about(),
            "event": record.getMessage(),
            "logger": record.name,
            "level": record.levelname.lower(),
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
        }
        if (of_logger := getattr(record, "etl_context_id", None)) is not None:
            said["etl_context_id"] = of_logger
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


def _plain_traceback(file: Any, error: Any) -> None:
    """The default one prints local variables, which hold payloads and passwords."""
    import structlog

    structlog.dev.plain_traceback(file, error)


def _as_json(_logger: Any, _method: str, said: Any) -> str:
    return json.dumps(said, default=str)
