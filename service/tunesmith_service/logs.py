"""Structured logs: one line a change of state, with study, trial and attempt as fields."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from typing import Any, Literal, TextIO, cast

import structlog
import structlog.tracebacks

from tunesmith_service.printable import printable

_NO_LOCALS = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)  # they may hold secrets


def _tame(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What strangers send, such as a path, is not obeyed by the terminal that shows the log."""
    return {k: printable(v) if isinstance(v, str) else v for k, v in event.items()}


class _Lines(io.TextIOBase):
    """Where lines go. One that cannot be written, to a full disk or a reader who has gone, is lost, and the
    request that it tells of is answered all the same."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._file.flush()


def configure(log_format: Literal["text", "json"]) -> None:
    """Send structlog's and the standard library's lines to standard error, in one form."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: structlog.typing.Processor
    if log_format == "json":
        last = structlog.processors.JSONRenderer()
        shared.append(structlog.processors.ExceptionRenderer(_NO_LOCALS))
    else:
        shared.append(_tame)
        last = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    # Ours are written here and now: through the standard library a line takes three times as long, and what
    # is dropped in the end, such as a line for each request that went well, must cost nothing.
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Lines(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for chatty in ("httpx", "httpcore", "alembic", "asyncio", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
