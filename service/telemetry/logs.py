"""Structured logs: a static event name and fields, one line per outcome, never a payload or a secret."""

import logging
import sys
from typing import Literal

import structlog
from structlog.tracebacks import ExceptionDictTransformer


def configure_logs(*, level: str, form: Literal["json", "console"]) -> None:
    """Set up structlog, and send what libraries log through the standard library the same way."""
    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[structlog.types.Processor] = (
        [
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ]
        if form == "json"
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    # Ours go straight to stderr: through the standard library a line would cost twice as much, and each outcome is one.
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Output,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer]
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # aiokafka repeats every connection error several times a second; ours say it once, with what is being done about it
    for library in ("aiobotocore", "aiohttp", "botocore"):
        logging.getLogger(library).setLevel(logging.INFO)  # their debug lines hold session tokens and signatures
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL if level != "debug" else logging.DEBUG)


class _Output(structlog.WriteLogger):
    """Writes to stderr, and knows the name that it was asked for by."""

    def __init__(self, name: str = "") -> None:
        super().__init__(sys.stderr)
        self.name = name
