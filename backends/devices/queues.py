"""Queues of work: a thread for each lane, events between them, and one failure for all of a run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from graphopt.backends.devices.driver import Driver, Lane


class Event:
    """A point in a queue. It is reached when the thread of the queue has given all before it to its lane; what then
    waits for the lane itself waits for `mark`."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self.mark: Any = None

    def set(self, mark: Any) -> None:
        """Say that the point is reached."""
        self.mark = mark
        self._reached.set()

    def reach(self) -> Any:
        """Wait in this thread until the point is reached; return the lane's mark."""
        self._reached.wait()
        return self.mark


class Failure:
    """The first error of a run. Work that is left does nothing then, but its events are still set."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self._lock = threading.Lock()

    def note(self, error: Exception) -> None:
        """Keep the first error."""
        with self._lock:
            self.error = self.error or error


class Queue:
    """Work for one lane, done in order by a thread of its own."""

    def __init__(self, driver: Driver, lane: Lane, name: str) -> None:
        self.driver = driver
        self.lane = lane
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"graphopt {name}")

    def submit(self, work: Callable[[], None], waits: Sequence[Event], failure: Failure) -> Event:
        """Do some work behind all that was submitted before, once events are reached. Returns the event behind it."""
        event = Event()
        self._thread.submit(self._do, work, waits, failure, event)
        return event

    def _do(self, work: Callable[[], None], waits: Sequence[Event], failure: Failure, event: Event) -> None:
        mark = None
        try:
            marks = [awaited.reach() for awaited in waits]
            if failure.error is None:
                with torch.inference_mode(), self.driver.on(self.lane):
                    for awaited in marks:
                        self.driver.wait(self.lane, awaited)
                    work()
                    mark = self.driver.record(self.lane)
        except Exception as error:  # raised again where the run was asked for
            failure.note(error)
        finally:
            event.set(mark)

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False)
