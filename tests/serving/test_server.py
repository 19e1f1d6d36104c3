"""The server: every request its own answer, in good company and bad."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from concurrent.futures import Future, wait
from typing import Any

import pytest
import torch
from torch import nn

import graphopt
from graphopt.errors import (
    GraphOptError,
    GraphOptWarning,
    InputError,
    QueueFullError,
    ServerClosedError,
    UnknownNameError,
)
from graphopt.program import Program
from graphopt.serving import Server
from tests.serving.models import linear, poisoned, pooled, tokens


@pytest.mark.parametrize("target", ["fx", "onnxruntime"])
def test_requests_of_all_lengths_get_what_the_model_gives_them_alone(target: str) -> None:
    model, compiled = pooled(target)
    requests = [tokens(length, rows) for length, rows in zip((3, 60, 3, 9, 61, 1) * 10, (1, 2, 3) * 20)]
    with compiled.serve(max_batch=16, pad={"ids": 0, "mask": 0}) as server:
        futures = [server.submit(*request) for request in requests]
        for request, future in zip(requests, futures):
            expected = model(*request)
            answer = future.result(60)
            assert answer.keys() == expected.keys()
            for name in expected:
                torch.testing.assert_close(answer[name], expected[name])
        done = server.statistics
    assert done.answered == len(requests) and done.failed == done.cancelled == done.waiting == 0
    assert done.batches < len(requests) and 0 < done.padding < 1


def test_calls_by_name_from_many_threads() -> None:
    model, compiled = pooled()
    wrong: list[int] = []

    def ask(length: int) -> None:
        ids, mask = tokens(length)
        if not torch.allclose(server(mask=mask, ids=ids)["mean"], model(ids, mask)["mean"], atol=1e-5):
            wrong.append(length)

    with compiled.serve() as server:
        threads = [threading.Thread(target=ask, args=(1 + i % 7,)) for i in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


class Gate(Program):
    """A program that waits until it is let through."""

    opened: threading.Event
    sizes: list[int]

    def run(self, flat: list[Any]) -> list[Any]:
        self.opened.wait(60)
        self.sizes.append(flat[0].shape[0])
        return super().run(flat)


def gated(compiled: graphopt.CompiledModel) -> Gate:
    program = compiled._require("a test")
    gate = Gate(program.graph, program.report, program.engine_name, program.executable, program.module)
    gate.opened, gate.sizes = threading.Event(), []
    return gate


def busy(server: Server, gate: Gate) -> Future[Any]:
    """Submit one request and wait until it runs."""
    first = server.submit(torch.randn(1, 4))
    while not first.running():
        time.sleep(0.001)
    return first


def test_what_waits_while_the_model_is_busy_runs_together() -> None:
    gate = gated(linear())
    with Server(gate, max_batch=8) as server:
        busy(server, gate)
        futures = [server.submit(torch.randn(1, 4)) for _ in range(20)]
        gate.opened.set()
        wait(futures, 60)
    assert gate.sizes == [1, 8, 8, 4]


def test_a_request_beyond_a_batch_runs_alone() -> None:
    gate = gated(linear())
    with Server(gate, max_batch=4) as server:
        busy(server, gate)
        futures = [server.submit(torch.randn(rows, 4)) for rows in (9, 1, 1)]
        gate.opened.set()
        assert [future.result(60).shape[0] for future in futures] == [9, 1, 1]
    assert gate.sizes[:2] == [1, 9]


def test_only_the_bad_request_of_a_batch_fails() -> None:
    compiled = linear()
    gate, good, bad = poisoned(compiled), torch.randn(1, 4), torch.full((1, 4), torch.nan)
    with Server(gate, max_delay=0) as server:
        futures = [server.submit(x) for x in (good, bad, good, torch.randn(1, 5), good.double(), good)]
        for index in (0, 2, 5):
            torch.testing.assert_close(futures[index].result(60), compiled(good))
        with pytest.raises(ValueError, match="poison"):
            futures[1].result(60)
        with pytest.raises(InputError, match="captured with size 4"):
            futures[3].result(60)
        with pytest.raises(InputError, match="float64"):
            futures[4].result(60)


class Centred(nn.Module):
    """Reads the other rows of a batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0, keepdim=True)


def test_a_model_that_mixes_rows_is_found_out() -> None:
    compiled = linear(Centred())
    gate = gated(compiled)
    with pytest.warns(GraphOptWarning, match="no longer joined"), Server(gate) as server:
        busy(server, gate)
        requests = [torch.randn(2, 4) for _ in range(5)]
        futures = [server.submit(x) for x in requests]
        gate.opened.set()
        for x, future in zip(requests, futures):
            torch.testing.assert_close(future.result(60), x - x.mean(0))


def test_a_model_that_reads_the_filling_is_found_out() -> None:
    model, compiled = pooled()
    requests = [tokens(length) for length in (4, 3, 9, 3, 9)]
    options: dict[str, Any] = {"pad": {"ids": 0, "mask": 1}, "buckets": {"length": [16]}}
    with pytest.warns(GraphOptWarning, match="no longer filled up"), compiled.serve(**options) as server:
        for request, answer in zip(requests, server.map(requests), strict=True):
            torch.testing.assert_close(answer["mean"], model(*request)["mean"])
        assert server.statistics.failed == 0


def test_a_full_queue_says_so_and_takes_more_later() -> None:
    gate = gated(linear())
    with Server(gate, max_queue=2) as server:
        busy(server, gate)
        futures = [server.submit(torch.randn(1, 4)) for _ in range(2)]
        with pytest.raises(QueueFullError, match="2 requests wait already"):
            server.submit(torch.randn(1, 4), timeout=0)
        late: list[Future[Any]] = []
        thread = threading.Thread(target=lambda: late.append(server.submit(torch.randn(1, 4))))
        thread.start()
        gate.opened.set()
        thread.join(60)
        assert [future.result(60).shape for future in (*futures, *late)] == [(1, 3)] * 3


def test_a_cancelled_request_does_not_run() -> None:
    gate = gated(linear())
    with Server(gate) as server:
        busy(server, gate)
        dropped, kept = server.submit(torch.randn(1, 4)), server.submit(torch.randn(1, 4))
        assert dropped.cancel()
        gate.opened.set()
        kept.result(60)
        assert server.statistics.cancelled == 1
    assert gate.sizes == [1, 1]


def test_closing_answers_what_waits_and_takes_no_more() -> None:
    gate = gated(linear())
    server = Server(gate)
    busy(server, gate)
    futures = [server.submit(torch.randn(1, 4)) for _ in range(5)]
    closing = threading.Thread(target=server.close)
    closing.start()
    gate.opened.set()
    closing.join(60)
    assert all(future.done() for future in futures)
    with pytest.raises(ServerClosedError):
        server.submit(torch.randn(1, 4))
    server.close()


def test_closing_can_cancel_what_waits() -> None:
    gate = gated(linear())
    server = Server(gate)
    first = busy(server, gate)
    futures = [server.submit(torch.randn(1, 4)) for _ in range(5)]
    threading.Timer(0.05, gate.opened.set).start()
    server.close(cancel=True)
    assert first.result(60).shape == (1, 3)
    assert all(future.cancelled() for future in futures) and server.statistics.cancelled == 5


def test_asyncio() -> None:
    compiled = linear()
    requests = [torch.randn(1 + i % 3, 4) for i in range(50)]

    async def main(server: Server) -> list[torch.Tensor]:
        with pytest.raises(InputError):
            await server.asubmit(torch.randn(1, 5))
        return await asyncio.gather(*(server.asubmit(x) for x in requests))

    with compiled.serve(max_queue=4) as server:
        for x, answer in zip(requests, asyncio.run(main(server))):
            torch.testing.assert_close(answer, compiled(x))


def test_map_keeps_the_order() -> None:
    model, compiled = pooled()
    requests = [tokens(length) for length in (9, 2, 9, 2, 5) * 5]
    with compiled.serve(max_queue=8) as server:
        for request, answer in zip(requests, server.map(requests), strict=True):
            torch.testing.assert_close(answer["each"], model(*request)["each"])


def test_a_callers_requests_are_answered_in_order() -> None:
    _, compiled = pooled()
    order: dict[int, list[int]] = {0: [], 1: []}
    with compiled.serve(pad=0, max_batch=4) as server:
        futures = []
        for index in range(60):
            future = server.submit(*tokens(random.Random(index).choice((2, 50))), caller=index % 2)
            future.add_done_callback(lambda _, index=index: order[index % 2].append(index))  # type: ignore[misc]
            futures.append(future)
        wait(futures, 60)
    assert order == {0: list(range(0, 60, 2)), 1: list(range(1, 60, 2))}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch": 0}, "max_batch is 0"),
        ({"max_queue": 0}, "max_queue is 0"),
        ({"max_delay": -1.0}, "max_delay is -1.0"),
        ({"latency": float("nan")}, "latency is nan"),
        ({"buckets": {"length": [8]}}, "needs pad="),
        ({"pad": 0, "buckets": {"length": [8, 500]}}, r"do not lie in its range \[1, 128\]"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphOptError, match=message):
        pooled()[1].serve(**options)


def test_buckets_name_dims() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'length'"):
        pooled()[1].serve(pad=0, buckets={"lengths": [8]})


def test_buckets_fill_up() -> None:
    model, compiled = pooled()
    seen: list[int] = []

    class Seen(Program):
        def run(self, flat: list[Any]) -> list[Any]:
            seen.append(flat[0].shape[1])
            return super().run(flat)

    program = compiled._require("a test")
    request = tokens(9)
    with Server(
        Seen(program.graph, program.report, module=program.module), pad=0, buckets={"length": [8, 16]}
    ) as server:
        torch.testing.assert_close(server(*request)["mean"], model(*request)["mean"])
        server(*tokens(20))
    assert seen == [16, 20]


def test_a_model_that_is_captured_at_its_first_call_needs_one() -> None:
    with pytest.raises(GraphOptError, match="needs a captured model"):
        graphopt.compile(nn.ReLU()).serve()


def test_thousands_of_requests_with_failures_and_cancellations_get_one_answer_each() -> None:
    compiled = linear()
    weight, bias = (p.detach() for p in compiled.module.parameters())
    draw = random.Random(0)
    kept: list[tuple[torch.Tensor, Future[Any], bool]] = []
    lock = threading.Lock()

    def ask(seed: int) -> None:
        own = random.Random(seed)
        for _ in range(500):
            rows, kind = own.randint(1, 3), own.random()
            x = torch.full((rows, 4), torch.nan) if kind < 0.05 else torch.randn(rows, 5 if kind < 0.1 else 4)
            future = server.submit(x)
            cancelled = own.random() < 0.05 and future.cancel()
            with lock:
                kept.append((x, future, cancelled))

    with Server(poisoned(compiled), max_batch=draw.randint(4, 16), max_queue=64) as server:
        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(kept) == 2000
    for x, future, cancelled in kept:
        assert future.done() and future.cancelled() == cancelled
        if cancelled:
            continue
        if x.shape[1] == 5:
            assert isinstance(future.exception(), InputError)
        elif x.isnan().any():
            assert isinstance(future.exception(), ValueError)
        else:
            torch.testing.assert_close(future.result(), x @ weight.T + bias)
