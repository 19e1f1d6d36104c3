"""What compiling costs: capture + default pipeline + emission against `torch.export.export` alone, warm.

The bar, on a ResNet-18 at 3x224x224 with numeric validation off and session load excluded: under 2x for FX and for
ONNX. With validation on, the table shows what each pass and check costs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import graphopt
from common import parse_args, print_table, write_json
from graphopt.backends.fx import emit_fx
from graphopt.backends.onnx import emit_onnx
from graphopt.passmanager import PassContext, PassManager
from graphopt.pipelines import default_pipeline
from tests.zoo import MODELS

BAR = 2.0


def stages(model: torch.nn.Module, args: tuple[Any, ...], target: str, emit: Callable[[Any], Any]) -> dict[str, float]:
    """Seconds of each stage of one compilation."""
    trainable = target == "fx"
    start = time.perf_counter()
    graph = graphopt.trace(model, args)
    captured = time.perf_counter()
    context = PassContext(target=target, trainable=trainable)
    optimized = PassManager(default_pipeline(target, trainable), validate=False).run(graph, context).graph
    rewritten = time.perf_counter()
    emit(optimized)
    emitted = time.perf_counter()
    return {"capture": captured - start, "passes": rewritten - captured, "emission": emitted - rewritten}


def seconds(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    options = parse_args(__doc__, ("--model", {"default": "resnet18"}))
    entry = MODELS[options.model]
    model = entry.build()
    args, _ = entry.inputs(batch=1)
    emits: dict[str, Callable[[Any], Any]] = {"fx": emit_fx, "onnx": emit_onnx}
    taken: dict[str, list[dict[str, float]]] = {target: [] for target in emits}
    export: list[float] = []
    for index in range(1 + (2 if options.quick else max(options.rounds, 5))):
        exported = seconds(lambda: torch.export.export(model, args, strict=False))
        measured = {target: stages(model, args, target, emit) for target, emit in emits.items()}
        if index:  # the first round is the warm-up
            export.append(exported)
            for target, parts in measured.items():
                taken[target].append(parts)
    base = statistics.median(export)
    rows, results = [], {"export_seconds": base, "bar": BAR}
    for target, runs in taken.items():
        parts = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        ratio = statistics.median(sum(run.values()) / e for run, e in zip(runs, export))
        rows.append([target, *parts.values(), sum(parts.values()), ratio])
        results[target] = {**parts, "ratio": ratio}
    columns = ["target", "capture", "passes", "emission", "total s", "times export"]
    print_table(f"{options.model}: torch.export.export alone takes {base:.3f} s", columns, rows, f"bar: under {BAR}x")
    compiled = graphopt.compile(model, args, target="onnxruntime")
    checks = [
        [r.name, r.status.value, 1e3 * r.seconds, 1e3 * r.verify_seconds, 1e3 * r.validate_seconds, r.model_runs]
        for r in compiled.report.passes.records
    ]
    print_table("With validation on (ms)", ["pass", "status", "pass", "verify", "validate", "model runs"], checks)
    results["validated"] = compiled.report.to_dict()
    write_json(options.json, "compile_time", results)


if __name__ == "__main__":
    main()
