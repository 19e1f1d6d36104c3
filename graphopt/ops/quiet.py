"""Silencing a logger for the time of a call, in this thread only."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Drop what the loggers so named would log from this thread; restore them on leaving.

    PyTorch logs a traceback at ERROR for each call that it refuses on fake tensors; a refusal is an answer here.
    """
    thread = threading.get_ident()

    def from_other_thread(record: logging.LogRecord) -> bool:
        return record.thread != thread

    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(from_other_thread)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(from_other_thread)
