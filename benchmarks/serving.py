"""What dynamic batching buys: MiniLM behind a server, at loads below, at and above what it can take without.

    load      Poisson arrivals at 0.5, 1 and 2 times the rate of single requests, and as many as it takes: throughput
              and latency, unbatched (a server of max_batch=1) and batched, beside the best batch size offline
    mixed     requests of mixed lengths, as many as it takes: batches chosen by length, beside batches in order of
              arrival filled up to their longest request
    endure    requests by the hundred thousand, some bad, some cancelled: each gets one answer, its own

The bars: at saturation at least 85 % of the gain of the best offline batch; mixed lengths faster than naive filling;
p99 at half the capacity no worse than unbatched; no request lost or mixed up.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import torch
from torch import nn

import graphopt
from common import parse_args, print_table, round_of, write_json
from graphopt.errors import InputError
from tests.zoo import MODELS

BATCHES = (1, 2, 4, 8, 16, 32)
LOADS = (0.5, 1.0, 2.0)
LENGTHS = (8, 128)
SECONDS = 8.0
THROUGHPUT_BAR = 0.85

Request = tuple[torch.Tensor, torch.Tensor]


def encoder() -> graphopt.CompiledModel:
    """MiniLM in ONNX Runtime, batch and length free."""
    entry = MODELS["minilm"]
    rows, length = torch.export.Dim("rows", min=1, max=512), torch.export.Dim("length", min=2, max=256)
    shapes = {name: {0: rows, 1: length} for name in ("input_ids", "attention_mask")}
    args, kwargs = entry.inputs(batch=2)
    return graphopt.compile(entry.build(), args, kwargs, target="onnxruntime", dynamic_shapes=shapes)


def request(length: int, rows: int = 1) -> Request:
    """Random tokens, all of them live."""
    return torch.randint(1000, 20_000, (rows, length)), torch.ones(rows, length, dtype=torch.long)


def offline(model: graphopt.CompiledModel, length: int) -> dict[int, float]:
    """Requests per second of the model alone, by batch size."""
    rates = {}
    for size in BATCHES:
        given = request(length, size)
        rates[size] = size / round_of(lambda given=given: model(*given), 0.5)  # type: ignore[misc]
    return rates


def offered(server: Any, rate: float, length: int, seconds: float) -> dict[str, float]:
    """Submit at random times of this mean rate; return throughput and latencies."""
    draw, done, lock = random.Random(0), [], threading.Lock()

    def finished(start: float) -> Any:
        def note(_: Future[Any]) -> None:
            with lock:
                done.append(time.perf_counter() - start)

        return note

    given = request(length)
    begin = due = time.perf_counter()
    futures: deque[Future[Any]] = deque()
    while due - begin < seconds:
        due += draw.expovariate(rate)
        time.sleep(max(0.0, due - time.perf_counter()))
        start = due  # a late submission is latency too
        future = server.submit(*given)
        future.add_done_callback(finished(start))
        futures.append(future)
    for future in futures:
        future.result()
    took = time.perf_counter() - begin
    ordered = sorted(done)
    return {
        "throughput": len(futures) / took,
        "median_ms": 1e3 * ordered[len(ordered) // 2],
        "p99_ms": 1e3 * ordered[int(0.99 * (len(ordered) - 1))],
    }


def saturated(server: Any, requests: Sequence[Request]) -> float:
    """Requests per second with the queue always full."""
    start = time.perf_counter()
    futures = [server.submit(*given) for given in requests]
    for future in futures:
        future.result()
    return len(requests) / (time.perf_counter() - start)


def load(model: graphopt.CompiledModel, length: int, seconds: float) -> dict[str, Any]:
    """One length: the model alone, then both servers at each load."""
    rates = offline(model, length)
    best = max(rates, key=lambda size: rates[size])
    rows = []
    for factor in LOADS:
        row: dict[str, Any] = {"load": factor}
        for name, most in (("single", 1), ("batched", 32)):
            with model.serve(max_batch=most, max_queue=100_000) as server:
                saturated(server, [request(length)] * 100)
                row[name] = offered(server, factor * rates[1], length, seconds)
        rows.append(row)
    requests = [request(length)] * int(max(rates.values()) * seconds)
    full = {}
    for name, most in (("single", 1), ("batched", 32)):
        with model.serve(max_batch=most) as server:
            saturated(server, requests[: len(requests) // 8])
            full[name] = saturated(server, requests)
    return {
        "length": length,
        "offline": rates,
        "best_batch": best,
        "offline_gain": rates[best] / rates[1],
        "gain": full["batched"] / full["single"],
        "saturated": full,
        "loads": rows,
    }


def naive(model: graphopt.CompiledModel, requests: Sequence[Request], size: int) -> float:
    """Requests per second of batches in order of arrival, filled up to their longest."""
    start = time.perf_counter()
    for first in range(0, len(requests), size):
        batch = requests[first : first + size]
        columns = [nn.utils.rnn.pad_sequence([r[i][0] for r in batch], batch_first=True) for i in (0, 1)]
        model(*columns)
    return len(requests) / (time.perf_counter() - start)


def mixed(model: graphopt.CompiledModel, count: int) -> dict[str, Any]:
    """Lengths as of text: many short, few long."""
    draw = random.Random(0)
    requests = [request(min(128, max(4, int(draw.lognormvariate(3.0, 0.8))))) for _ in range(count)]
    rates: dict[str, list[float]] = {"by length": [], "naive": [], "single": []}
    for _ in range(3):
        with model.serve(max_batch=32, pad=0) as server:
            saturated(server, requests[:200])
            rates["by length"].append(saturated(server, requests))
            padding = server.statistics.padding
        rates["naive"].append(max(naive(model, requests, size) for size in (8, 32)))
        rates["single"].append(naive(model, requests, 1))
    middle = {name: sorted(values)[1] for name, values in rates.items()}
    return {**middle, "gain_over_naive": middle["by length"] / middle["naive"], "padding": padding}


def endure(count: int) -> dict[str, int]:
    """Bad, cancelled and good requests from four threads; returns how many of each, and how many were wrong."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 3).eval()
    rows = torch.export.Dim("rows", min=1, max=512)
    model = graphopt.compile(layer, (torch.randn(2, 4),), target="fx", dynamic_shapes=({0: rows},))
    found = {"answered": 0, "refused": 0, "cancelled": 0, "wrong": 0}
    lock = threading.Lock()

    def ask(seed: int) -> None:
        own = random.Random(seed)
        sent: deque[tuple[torch.Tensor, Future[Any]]] = deque()
        for index in range(count // 4):
            x = torch.full((own.randint(1, 3), 5 if own.random() < 0.05 else 4), float(index % 1000))
            future = server.submit(x)
            if own.random() < 0.05:
                future.cancel()
            sent.append((x, future))
            if len(sent) > 500:
                judge(*sent.popleft())
        while sent:
            judge(*sent.popleft())

    def judge(x: torch.Tensor, future: Future[Any]) -> None:
        if future.cancelled():
            kind = "cancelled"
        elif x.shape[1] == 5:
            kind = "refused" if isinstance(future.exception(), InputError) else "wrong"
        else:
            right = torch.allclose(future.result(), layer(x), rtol=1e-4, atol=1e-4)
            kind = "answered" if right else "wrong"
        with lock:
            found[kind] += 1

    with model.serve(max_batch=32) as server:
        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return found


def load_table(found: dict[str, Any]) -> None:
    keys = ("throughput", "median_ms", "p99_ms")
    rows = [[f"{r['load']:g}x", *(r[name][k] for name in ("single", "batched") for k in keys)] for r in found["loads"]]
    full = found["saturated"]
    print_table(
        f"MiniLM, {found['length']} tokens",
        ["load", *(f"{name} {k}" for name in ("single", "batched") for k in ("req/s", "median ms", "p99 ms"))],
        [*rows, ["full", full["single"], None, None, full["batched"], None, None]],
        f"gain {found['gain']:.2f}; with the best batch ({found['best_batch']}) offline {found['offline_gain']:.2f}: "
        f"{found['gain'] / found['offline_gain']:.0%} (bar {THROUGHPUT_BAR:.0%})",
    )


def main() -> None:
    options = parse_args(__doc__)
    seconds, count = (1.0, 2_000) if options.quick else (SECONDS, 100_000)
    model = encoder()
    results: dict[str, Any] = {"load": []}
    for length in LENGTHS:
        results["load"].append(load(model, length, seconds))
        load_table(results["load"][-1])
    results["mixed"] = found = mixed(model, 300 if options.quick else 2_000)
    rows = [[name, found[name]] for name in ("single", "naive", "by length")]
    note = f"by length {found['gain_over_naive']:.2f} times the naive; filling {found['padding']:.0%} of the elements"
    print_table("MiniLM, 4 to 128 tokens", ["batches", "req/s"], rows, note)
    results["endure"] = endure(count)
    print(f"{count} requests: {results['endure']}")
    write_json(options.json, "serving", results)


if __name__ == "__main__":
    main()
