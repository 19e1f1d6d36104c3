"""Speed of the result: the `cpu` target against PyTorch eager, torch.compile with freezing, and ONNX Runtime on
PyTorch's own export, in one run with interleaved rounds.

The bar: never slower than the best of them by more than 3 % (median of the ratios of five rounds).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

import graphopt
from common import onnxruntime_options, parse_args, print_table, ratio, time_interleaved, write_json
from tests.zoo import MODELS

NAMES = ("resnet18", "mobilenet-v2", "minilm", "vit-small")
BAR = 1.03


def frozen(model: torch.nn.Module, args: Any, kwargs: Any) -> Callable[[], Any]:
    """torch.compile with inductor's weight freezing."""
    from torch._inductor import config

    torch._dynamo.reset()
    compiled = torch.compile(model)
    with config.patch(freezing=True), torch.no_grad():
        compiled(*args, **kwargs)
    return lambda: compiled(*args, **kwargs)


def plain_onnxruntime(model: torch.nn.Module, args: Any, kwargs: Any, threads: int) -> Callable[[], Any]:
    """ONNX Runtime, all its optimizations on, on what PyTorch's exporter writes."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(model, args, path, kwargs=kwargs or None, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, onnxruntime_options(threads), ["CPUExecutionProvider"])
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    feeds = {given.name: leaf.numpy() for given, leaf in zip(session.get_inputs(), leaves, strict=True)}
    return lambda: session.run(None, feeds)


def measure(name: str, rounds: int, threads: int, engines: tuple[str, ...] | None) -> dict[str, Any]:
    """Time one model on every engine."""
    entry = MODELS[name]
    model = entry.build()
    args, kwargs = entry.inputs(batch=1)
    compiled = graphopt.compile(model, args, kwargs, target="cpu", engines=engines)
    calls: dict[str, Callable[[], Any]] = {
        "eager": lambda: model(*args, **kwargs),
        "inductor, freezing": frozen(model, args, kwargs),
        "onnxruntime, plain export": plain_onnxruntime(model, args, kwargs, threads),
        "graphopt cpu": lambda: compiled(*args, **kwargs),
    }
    with torch.no_grad():
        timings = time_interleaved(calls, rounds=rounds, seconds=1.0, warmup=5)
    peers = [peer for peer in calls if peer != "graphopt cpu"]
    best = min(peers, key=lambda peer: timings[peer].median)
    return {
        "model": name,
        "engine": compiled.engine,
        "ms": {key: timing.ms for key, timing in timings.items()},
        "spread": {key: timing.spread for key, timing in timings.items()},
        "best_peer": best,
        "ratio": ratio(timings, "graphopt cpu", best),
    }


def main() -> None:
    options = parse_args(
        __doc__,
        ("--only", {"nargs": "*", "default": list(NAMES), "help": "names of models"}),
        ("--engines", {"nargs": "*", "default": None, "help": "the candidates of the cpu target"}),
    )
    names = ["lenet"] if options.quick else options.only
    results = []
    for name in names:
        results.append(measure(name, options.rounds, options.threads, options.engines))
        print(f"{name}: {results[-1]['ratio']:.3f} of {results[-1]['best_peer']}", flush=True)
    columns = ["model", *results[0]["ms"], "engine chosen", "best peer", "ratio to it"]
    rows = [[r["model"], *r["ms"].values(), r["engine"], r["best_peer"], r["ratio"]] for r in results]
    print_table("Latency, ms (batch 1)", columns, rows, f"bar: ratio at most {BAR}")
    write_json(options.json, "result_speed", results)


if __name__ == "__main__":
    main()
