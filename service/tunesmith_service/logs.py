"""Structured logs: one line a change of state, with study, trial and attempt as fields."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from typing import Any, Literal, TextIO, cast

import structlog
import structlog.tracebacks

from tunesmith_service.origin import request_id
from tunesmith_service.printable import printable

_NO_LOCALS = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)  # they may hold secrets


def _request(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if (answered := request_id()) is not None:
        event.setdefault("request_id", answered)
    return event


class _Text:
    """structlog's lines for people. It takes 30 µs for one, and each trial leaves two: where nothing is
    coloured, one without a traceback is put together here. What strangers send, such as a path, is not obeyed
    by the terminal that shows the log."""

    def __init__(self, *, coloured: bool) -> None:
        self._full = structlog.dev.ConsoleRenderer(
            colors=coloured, exception_formatter=structlog.dev.plain_traceback
        )
        self._coloured = coloured

    def __call__(self, logger: Any, name: str, event: structlog.typing.EventDict) -> str:
        if self._coloured or not _TRACES.isdisjoint(event):
            tame = {key: printable(v) if isinstance(v, str) else v for key, v in event.items()}
            return str(self._full(logger, name, tame))
        at, level, said = (event.pop(key, "") for key in ("timestamp", "level", "event"))
        told = "".join(f" {key}={_shown(event[key])}" for key in sorted(event))
        return f"{at} [{level:<9}] {printable(said):<30}{told}".rstrip()


_TRACES = frozenset({"exception", "exc_info", "stack", "stack_info"})
_QUOTED = frozenset(" \t=\r\n\"'")


def _shown(value: Any) -> str:
    if not isinstance(value, str):
        return repr(value)
    return tame if _QUOTED.isdisjoint(tame := printable(value)) else repr(tame)


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
        _request,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: structlog.typing.Processor
    if log_format == "json":
        last = structlog.processors.JSONRenderer()
        shared.append(structlog.processors.ExceptionRenderer(_NO_LOCALS))
    else:
        last = _Text(coloured=sys.stderr.isatty())
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
    for chatty in ("httpx", "httpcore", "alembic", "asyncio", "uvicorn", "botocore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
