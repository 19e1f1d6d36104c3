"""The server: a queue, one thread that runs batches, and a future for each request."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from graphopt.errors import GraphOptError, InputError, QueueFullError, ServerClosedError, unknown_name
from graphopt.serving.join_check import JoinCheck
from graphopt.serving.latency import LatencyModel
from graphopt.serving.layout import BatchLayout, Padding, Sizes
from graphopt.serving.selection import Policy, choose
from graphopt.serving.statistics import Counters, ServingStatistics

if TYPE_CHECKING:
    from graphopt.program import Program

SMOOTHING = 0.1
"""What the latest gap between two arrivals weighs in their mean."""


@dataclass(eq=False)
class _Request:
    flat: list[Any]
    rows: int
    sizes: Sizes
    caller: Hashable
    future: Future[Any] = field(default_factory=Future)
    arrival: float = 0.0


class Server:
    """Answers requests to a compiled model; those that wait at the same time run together.

    Call it as the model (`server(x)`), from any number of threads; or `submit(x)` for a future, `await
    server.asubmit(x)`, or `map(inputs)`. A request has any number of rows, and gets its own rows back. Tensors of a
    request must not change until it is answered.

    A batch runs as soon as the model is free. It waits for one more request only while that is expected to pay: with n
    requests waiting, a mean gap τ between arrivals, and a cost α of each batch that does not depend on its size, while
    n·τ < α, and for `max_delay` at most. So at low load nobody waits, and under load batches grow by themselves.

    Each request is answered exactly once: with its result, with its own error, or not at all if its future was
    cancelled before it ran. A batch that fails runs again request by request, so an error meets only the one at fault.
    """

    def __init__(
        self,
        program: Program,
        *,
        max_batch: int = 32,
        max_delay: float = 0.002,
        latency: float | None = None,
        max_queue: int = 1024,
        pad: Padding = None,
        buckets: Mapping[str, Sequence[int]] | None = None,
        check: bool = True,
    ) -> None:
        """See `CompiledModel.serve`."""
        for name, value in (("max_batch", max_batch), ("max_queue", max_queue)):
            if value < 1:
                raise GraphOptError(f"{name} is {value}; it is at least 1")
        for name, seconds in (("max_delay", max_delay), ("latency", latency)):
            if seconds is not None and not 0 <= seconds < float("inf"):
                raise GraphOptError(f"{name} is {seconds}; it is a number of seconds, 0 or more")
        self._program = program
        graph = program.current_graph()
        self._layout = BatchLayout.of(graph, pad)
        self._buckets = _buckets(self._layout, buckets or {})
        self._max_batch = min(max_batch, self._layout.rows.max or max_batch)
        self._max_delay, self._objective, self._max_queue = max_delay, latency, max_queue
        self._check = JoinCheck(graph, self._run_alone) if check else None
        self._latency = LatencyModel()
        self._counters = Counters()
        self._queue: deque[_Request] = deque()
        self._room: deque[Future[None]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._gap = float("inf")
        self._last_arrival = float("-inf")
        self._worker = threading.Thread(target=self._work, name="graphopt-server", daemon=True)
        self._worker.start()

    # Requests

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model on a request and return its result.

        Raises:
            InputError: arguments that don't fit the model.
            ServerClosedError: the server was closed.
        """
        return self.submit(*args, **kwargs).result()

    def submit(self, *args: Any, caller: Hashable = None, timeout: float | None = None, **kwargs: Any) -> Future[Any]:
        """Queue a request; its future has the result. Arguments that don't fit the model are the future's error.

        caller: requests of one caller are answered in the order in which they were submitted; without one, in any.
        timeout: how long to wait, in seconds, for room in a full queue; for as long as it takes by default.

        Raises:
            QueueFullError: there was no room in that time.
            ServerClosedError: the server was closed.
        """
        request, error = self._request(args, kwargs, caller)
        if error is not None:
            return _failed(error)
        end = None if timeout is None else time.monotonic() + timeout
        while (room := self._enqueue(request)) is not None:
            try:
                room.result(None if end is None else max(0.0, end - time.monotonic()))
            except FutureTimeout:
                room.cancel()
                raise QueueFullError(
                    f"{self._max_queue} requests wait already; submit fewer at a time, or serve with a larger max_queue"
                ) from None
        return request.future

    async def asubmit(self, *args: Any, caller: Hashable = None, **kwargs: Any) -> Any:
        """Await the result of a request. Waiting for room does not block the event loop; to cancel the task is to
        cancel the request, if it does not run yet.

        Raises:
            InputError: arguments that don't fit the model.
            ServerClosedError: the server was closed.
        """
        request, error = self._request(args, kwargs, caller)
        if error is not None:
            raise error
        while (room := self._enqueue(request)) is not None:
            await asyncio.wrap_future(room)
        return await asyncio.wrap_future(request.future)

    def map(self, inputs: Iterable[Any]) -> Iterator[Any]:
        """Yield the result for each input, in order; at most a queue's worth is submitted ahead."""
        pending: deque[Future[Any]] = deque()
        for given in inputs:
            pending.append(self.submit(*given) if isinstance(given, tuple) else self.submit(given))
            if len(pending) >= self._max_queue:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    @property
    def statistics(self) -> ServingStatistics:
        """What was done so far."""
        with self._changed:
            return self._counters.snapshot(len(self._queue))

    def close(self, *, cancel: bool = False) -> None:
        """Take no more requests, answer those that wait (or cancel them), and stop. Closing twice is fine."""
        with self._changed:
            self._closed = True
            if cancel:
                for request in self._queue:
                    self._counters.cancelled += request.future.cancel()
                self._queue.clear()
            room, self._room = self._room, deque()
            self._changed.notify_all()
        for waiting in room:
            if waiting.set_running_or_notify_cancel():
                waiting.set_exception(_closed())
        if threading.current_thread() is not self._worker:
            self._worker.join()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _request(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], caller: Hashable
    ) -> tuple[_Request, GraphOptError | None]:
        try:
            flat = self._program.convention.flatten(args, kwargs)
            return _Request(flat, *self._layout.measure(flat), caller), None
        except InputError as error:
            return _Request([], 0, (), caller), error

    def _enqueue(self, request: _Request) -> Future[None] | None:
        """Put a request into the queue; if there is no room, return what says when there may be some."""
        with self._changed:
            if self._closed:
                raise _closed()
            if len(self._queue) >= self._max_queue:
                room: Future[None] = Future()
                self._room.append(room)
                return room
            request.arrival = time.monotonic()
            gap = request.arrival - self._last_arrival
            self._gap = gap if self._gap == float("inf") else self._gap + SMOOTHING * (gap - self._gap)
            self._last_arrival = request.arrival
            self._queue.append(request)
            self._changed.notify_all()
            return None

    # Batches

    def _work(self) -> None:
        while batch := self._next():
            self._answer(*batch)

    def _next(self) -> tuple[list[_Request], Sizes] | None:
        """Take the next batch out of the queue, when it is time; None once the server is closed and the queue empty."""
        with self._changed:
            while not self._queue:
                if self._closed:
                    return None
                self._changed.wait()
            batch, sizes = self._choose()
            while (patience := self._patience(batch)) > 0:
                self._changed.wait(patience)
                if not self._queue:  # all cancelled by close
                    return [], ()
                batch, sizes = self._choose()
            chosen = set(map(id, batch))
            self._queue = deque(r for r in self._queue if id(r) not in chosen)
            free = [self._room.popleft() for _ in range(min(len(batch), len(self._room)))]
        for room in free:
            if room.set_running_or_notify_cancel():
                room.set_result(None)
        return batch, sizes

    def _choose(self) -> tuple[list[_Request], Sizes]:
        joins = self._check is None or self._check.joins
        pads = bool(self._layout.padding) and (self._check is None or self._check.pads)
        policy = Policy(self._max_batch if joins else 1, pads, self._round_up if pads else lambda sizes: sizes)
        left = float("inf")
        if self._objective is not None:
            left = self._objective - (time.monotonic() - self._queue[0].arrival)
        return choose(self._queue, policy, self._latency, left)

    def _patience(self, batch: Sequence[_Request]) -> float:
        """How many seconds to wait for one more request; 0 where the batch is full, or waiting is not to pay."""
        if self._closed or sum(r.rows for r in batch) >= self._max_batch or len(batch) < len(self._queue):
            return 0.0
        if len(batch) * self._gap >= self._latency.fixed or (self._check is not None and not self._check.joins):
            return 0.0
        left = batch[0].arrival + self._max_delay - time.monotonic()
        return min(left, 2 * self._gap) if time.monotonic() - self._last_arrival < 2 * self._gap else 0.0

    def _round_up(self, sizes: Sizes) -> Sizes:
        return tuple(
            next((b for b in self._buckets.get(symbol.name, ()) if b >= size), size)
            for symbol, size in zip(self._layout.lengths, sizes)
        )

    def _answer(self, chosen: list[_Request], sizes: Sizes) -> None:
        batch = [request for request in chosen if request.future.set_running_or_notify_cancel()]
        with self._changed:
            self._counters.cancelled += len(chosen) - len(batch)
        if batch:
            self._answer_all(batch, sizes)

    def _answer_all(self, batch: list[_Request], sizes: Sizes) -> None:
        """Answer requests that run; one by one if together they fail, or get other results than alone."""
        try:
            answers = self._run(batch, sizes)
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch[0], error)
                return
            answers = None
        if answers is not None:
            for request, answer in zip(batch, answers):
                self._succeed(request, answer)
            return
        for request in batch:
            self._answer_all([request], request.sizes)

    def _run(self, batch: list[_Request], sizes: Sizes) -> list[list[Any]] | None:
        """Return the outputs of each request; None if they must run alone."""
        own = sum(r.rows * prod(r.sizes) for r in batch)
        total = sum(r.rows for r in batch) * prod(sizes)
        start = time.perf_counter()
        if len(batch) == 1 and total == own:
            answers = [self._run_alone(batch[0].flat)]
        else:
            outputs = self._program.run(self._layout.join([r.flat for r in batch], sizes))
            answers = self._layout.split(outputs, [r.rows for r in batch], [r.sizes for r in batch])
        seconds = time.perf_counter() - start
        with self._changed:
            self._latency.observe(total, seconds)
            self._counters.batch(sum(r.rows for r in batch), own, total)
        padded = total > own
        if self._check is None or not (len(batch) > 1 or padded) or not self._check.is_due(padded):
            return answers
        return answers if self._check(padded, [r.flat for r in batch], answers) else None

    def _run_alone(self, flat: Sequence[Any]) -> list[Any]:
        return self._program.run(list(flat))

    def _succeed(self, request: _Request, outputs: list[Any]) -> None:
        result = self._program.convention.unflatten(outputs)
        with self._changed:
            self._counters.answer(time.monotonic() - request.arrival)
        request.future.set_result(result)

    def _fail(self, request: _Request, error: Exception) -> None:
        with self._changed:
            self._counters.failed += 1
        request.future.set_exception(error)


def _failed(error: Exception) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def _closed() -> ServerClosedError:
    return ServerClosedError("the server is closed and takes no more requests; make another with .serve()")


def _buckets(layout: BatchLayout, buckets: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    symbols = {symbol.name: symbol for symbol in layout.lengths}
    for name, sizes in buckets.items():
        if name not in symbols:
            raise unknown_name("dim", name, symbols, "It was given to serve for its buckets.")
        low, high, step = symbols[name].min, symbols[name].max, symbols[name].multiple_of
        if any(size < low or (high is not None and size > high) or size % step for size in sizes):
            raise GraphOptError(f"the buckets {list(sizes)} of {name} do not lie in its range [{low}, {high}]")
    if buckets and not layout.padding:
        raise GraphOptError("buckets are lengths that requests are filled up to, so serve needs pad= too")
    return {name: tuple(sorted(sizes)) for name, sizes in buckets.items()}
