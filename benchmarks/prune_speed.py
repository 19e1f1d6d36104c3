"""What pruning buys: half the channels of ResNet-18, MobileNetV2 and a ViT, in ONNX Runtime.

    speed     the ONNX file of each model before and after, one core or more, interleaved rounds in one run
    budget    asked for a speed-up, what came of it, measured anew beside the original
    cost      channel analysis and rewriting of a model of 1,000 layers: time a node, and the peak of memory

Both files are written by graphopt without further passes, so that channels alone make the difference; ONNX Runtime's
own optimizations are on for both.

The bars: ResNet-18 at least 2.7x as fast; a speed-up of 2 asked for is 2 within 10 %; a model of 1,000 layers takes
seconds, and at most original + pruned + twice the largest layer of memory.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import graphopt
from common import onnxruntime_options, parse_args, print_table, ratio, time_interleaved, write_json
from graphopt.analysis.channels import ChannelAnalysis
from graphopt.compiled import CompiledModel
from graphopt.passes.prune_channels import PruneChannels
from graphopt.passes.pruning.chooser import Chooser
from graphopt.passes.pruning.rewrite.prune import apply_plan, prune_graph
from graphopt.passmanager import PassContext
from tests.zoo import MODELS

MODELS_SHOWN = ("resnet18", "mobilenet-v2", "vit-small")
SPEED_BAR = 2.7
BUDGET_BAR = 0.10
LAYERS = (250, 1_000, 4_000)


def session_call(compiled: CompiledModel, args: Any, kwargs: Any, threads: int) -> Callable[[], Any]:
    """ONNX Runtime on the emitted file, all its optimizations on."""
    import onnxruntime

    data = compiled.to_onnx().SerializeToString()
    session = onnxruntime.InferenceSession(data, onnxruntime_options(threads), ["CPUExecutionProvider"])
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    feeds = {given.name: leaf.numpy() for given, leaf in zip(session.get_inputs(), leaves, strict=True)}
    return lambda: session.run(None, feeds)


def speed(name: str, share: float, rounds: int, threads: int) -> dict[str, Any]:
    """Latency of one model with a share of its channels gone, beside the whole."""
    entry = MODELS[name]
    model = entry.build()
    args, kwargs = entry.inputs(batch=1)
    whole = graphopt.compile(model, args, kwargs, target="fx", passes="none", validate=False)
    pruned = graphopt.prune(model, args, kwargs, ratio=share)
    calls = {
        "whole": session_call(whole, args, kwargs, threads),
        "pruned": session_call(pruned, args, kwargs, threads),
    }
    timings = time_interleaved(calls, rounds=rounds, seconds=1.0, warmup=5)
    report = pruned.report.pruning
    return {
        "model": name,
        "share": share,
        "macs": report.before.macs,
        "pruned_macs": report.after.macs,
        "parameters": report.before.parameters,
        "pruned_parameters": report.after.parameters,
        "ms": timings["whole"].ms,
        "pruned_ms": timings["pruned"].ms,
        "speedup": ratio(timings, "whole", "pruned"),
        "masked_error": report.masked_error,
        "refused": len([one for one in report.refused if one.name in {row.name for row in report.groups}]),
    }


def budget(name: str, asked: float, rounds: int, threads: int) -> dict[str, Any]:
    """A speed-up asked for, and what it is when measured again."""
    entry = MODELS[name]
    model = entry.build()
    args, kwargs = entry.inputs(batch=1)
    start = time.perf_counter()
    pruned = graphopt.prune(model, args, kwargs, speedup=asked, engine="onnxruntime", round_to="target")
    seconds = time.perf_counter() - start
    whole = graphopt.compile(model, args, kwargs, target="fx", passes="none", validate=False)
    calls = {
        "whole": session_call(whole, args, kwargs, threads),
        "pruned": session_call(pruned, args, kwargs, threads),
    }
    timings = time_interleaved(calls, rounds=rounds, seconds=1.0, warmup=5)
    report = pruned.report.pruning
    return {
        "model": name,
        "asked": asked,
        "found": report.speedup,
        "measured": ratio(timings, "whole", "pruned"),
        "macs_left": report.after.macs / report.before.macs,
        "seconds": seconds,
    }


class Deep(nn.Module):
    """Residual blocks of two convolutions and batch norms: four layers and a sum each."""

    def __init__(self, layers: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
            )
            for _ in range(layers // 4)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))


def cost(layers: int) -> dict[str, Any]:
    """Seconds of analysis, choice and rewriting."""
    graph = graphopt.trace(Deep(layers).eval(), (torch.randn(1, 3, 8, 8),))
    nodes = len(graph)
    gc.collect()
    start = time.perf_counter()
    ChannelAnalysis(graph)
    analysed = time.perf_counter()
    choice = Chooser(PruneChannels(ratio=0.5), graph, PassContext()).choose()
    chosen = time.perf_counter()
    apply_plan(graph, choice.pruning)
    end = time.perf_counter()
    return {
        "layers": layers,
        "nodes": nodes,
        "analysis": analysed - start,
        "choice": chosen - analysed,
        "rewriting": end - chosen,
        "us_a_node": (end - start) / nodes * 1e6,
    }


def memory(blocks: int = 8, width: int = 2048) -> dict[str, Any]:
    """Bytes of tensors alive at once while a graph with large weights is pruned, against the bar."""
    layers = [layer for _ in range(blocks) for layer in (nn.Linear(width, width), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(width, 10)).eval()
    graph = graphopt.trace(model, (torch.randn(1, width),))
    original = sum(v.constant.tensor.nbytes for v in graph.constants.values() if v.constant is not None)
    largest = max(v.constant.tensor.nbytes for v in graph.constants.values() if v.constant is not None)
    with TensorPeak() as peak:
        analysis = ChannelAnalysis(graph)
        selection = {group.name: torch.arange(group.size).numpy() % 2 == 0 for group in analysis.groups}
        prune_graph(graph, analysis, selection)
    pruned = sum(v.constant.tensor.nbytes for v in graph.constants.values() if v.constant is not None)
    return {
        "original": original,
        "pruned": pruned,
        "largest": largest,
        "peak": original + peak.bytes,
        "bar": original + pruned + 2 * largest,
    }


class TensorPeak:
    """The most that was allocated at once in a block: tensors by PyTorch's count, and what Python and NumPy hold."""

    bytes = 0

    def __enter__(self) -> TensorPeak:
        from torch.profiler import ProfilerActivity, profile

        tracemalloc.start()
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self._profile.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._profile.__exit__(*error)
        arrays = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        live = highest = 0
        for event in self._profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                live += event.nbytes()
                highest = max(highest, live)
        self.bytes = highest + arrays


def main() -> None:
    options = parse_args(
        __doc__,
        ("--only", {"nargs": "*", "default": list(MODELS_SHOWN), "help": "names of models"}),
        ("--share", {"type": float, "default": 0.5, "help": "the share of channels that goes"}),
        ("--asked", {"type": float, "nargs": "*", "default": [2.0], "help": "speed-ups to ask for"}),
        ("--skip-cost", {"action": "store_true", "help": "leave out the deep models"}),
    )
    names = ["resnet8", "vit-tiny"] if options.quick else options.only
    results: dict[str, Any] = {"speed": [], "budget": []}
    for name in names:
        results["speed"].append(speed(name, options.share, options.rounds, options.threads))
        print(f"{name}: {results['speed'][-1]['speedup']:.2f}x", flush=True)
    print_table(
        f"{options.share:.0%} of the channels gone, ONNX Runtime, batch 1",
        ["model", "ms", "pruned ms", "speed-up", "MACs left", "parameters left", "pruned = masked"],
        [speed_row(found) for found in results["speed"]],
        f"bar: resnet18 at least {SPEED_BAR}x",
    )
    for name in names:
        for asked in options.asked:
            results["budget"].append(attempt(name, asked, options))
    print_table(
        "Speed-up asked for",
        ["model", "asked", "found", "measured again", "off by", "MACs left", "seconds"],
        [budget_row(found) for found in results["budget"]],
        f"bar: within {BUDGET_BAR:.0%}",
    )
    if not options.skip_cost:
        results["cost"] = [cost(layers) for layers in (LAYERS[:2] if options.quick else LAYERS)]
        print_table("Time, seconds", list(results["cost"][0]), [list(row.values()) for row in results["cost"]])
        results["memory"] = memory()
        megabytes = {key: value / 1e6 for key, value in results["memory"].items()}
        print_table("Memory, MB", list(megabytes), [list(megabytes.values())])
    write_json(options.json, "prune_speed", results)


def attempt(name: str, asked: float, options: Any) -> dict[str, Any]:
    """A budget, or why it cannot be met."""
    try:
        found = budget(name, asked, options.rounds, options.threads)
    except graphopt.GraphOptError as error:
        found = {"model": name, "asked": asked, "error": str(error)}
    print(f"{name}: asked {asked}, {found.get('measured') or found.get('error')}", flush=True)
    return found


def speed_row(found: Mapping[str, Any]) -> list[Any]:
    return [
        *(found[key] for key in ("model", "ms", "pruned_ms", "speedup")),
        found["pruned_macs"] / found["macs"],
        found["pruned_parameters"] / found["parameters"],
        found["masked_error"],
    ]


def budget_row(found: Mapping[str, Any]) -> list[Any]:
    if "error" in found:
        return [found["model"], found["asked"], found["error"], None, None, None, None]
    off = found["measured"] / found["asked"] - 1
    return [*(found[key] for key in ("model", "asked", "found", "measured")), off, found["macs_left"], found["seconds"]]


if __name__ == "__main__":
    main()
