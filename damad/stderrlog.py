"""Where log lines go: to stderr, those of libraries too, without secrets. stdout belongs to what a command prints."""

import logging
import sys

import structlog

from damad.masking import masked


class _Masking(structlog.stdlib.ProcessorFormatter):
    """Writes lines, with tracebacks, out of which every secret is taken."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


def configure(level: int) -> None:
    """Log lines of this level and above go to stderr, structured ones and plain ones in one form."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    last: list[structlog.typing.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        # plain: the default one prints local variables, which hold payloads and passwords
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Masking(foreign_pre_chain=shared, processors=last))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
