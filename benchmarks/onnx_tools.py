"""The optimizers of ONNX files that are compared, each run in a process of its own, and what their results hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import ROOT, onnxruntime_options

TOOLS = ("onnxsim", "onnxslim", "onnxscript", "onnxruntime", "graphopt")

FAMILIES = {
    "Conv": {"Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "ConvInteger", "QLinearConv"},
    "MatMul": {
        "MatMul",
        "Gemm",
        "FusedMatMul",
        "FusedGemm",
        "TransposeMatMul",
        "MatMulInteger",
        "DynamicQuantizeMatMul",
    },
    "norm": {
        "LayerNormalization",
        "SkipLayerNormalization",
        "EmbedLayerNormalization",
        "SimplifiedLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "RMSNormalization",
        "BatchNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "GroupNorm",
    },
    "Softmax": {"Softmax", "LogSoftmax"},
    "recurrent": {"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"},
    "Resize": {"Resize", "Upsample"},
    "pool": {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"},
}
VIEWS = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
SPELLINGS = ("auto_pad", "kernel_shape", "pads")
WITHIN = {"Attention": ("MatMul", "Softmax", "MatMul"), "MultiHeadAttention": ("MatMul", "Softmax", "MatMul")}
"""What operators of several parts count as; com.microsoft's Attention holds a projection more."""


def counts(path: Path) -> dict[str, Any]:
    """`nodes` of a file, and those of the `main` operators by family; those of branches and loops included."""
    import onnx

    main: Counter[str] = Counter()
    nodes = list(_nodes(onnx.load(path, load_external_data=False).graph))
    for node in nodes:
        parts = WITHIN.get(node.op_type, ())
        projection = ("MatMul",) if node.op_type == "Attention" and node.domain == "com.microsoft" else ()
        families = [family for family, members in FAMILIES.items() if node.op_type in members]
        main.update((*families, *parts, *projection))
    return {"nodes": len(nodes), "main": main}


def kernels(path: Path, threads: int) -> dict[str, int]:
    """What ONNX Runtime runs for a file once it has optimized it: how often each operator with its attributes and the
    shapes of its constants, without views, which cost no work, and padding, which files spell in several ways. Two
    files with the same ones run alike, whatever a clock says."""
    import onnx
    import onnxruntime

    written = path.with_suffix(".ort.onnx")
    options = onnxruntime_options(threads)
    options.log_severity_level, options.optimized_model_filepath = 4, str(written)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(written).graph
    written.unlink()
    shapes = {stored.name: (stored.data_type, *stored.dims) for stored in graph.initializer}
    found: Counter[str] = Counter()
    for node in _nodes(graph):
        if node.op_type in VIEWS:
            continue
        told = [a for a in node.attribute if a.name not in SPELLINGS and not a.HasField("g")]
        scalars = sorted(str(a).replace("\n", " ") for a in told)
        constants = [shapes.get(name) for name in node.input]
        found[f"{node.domain}:{node.op_type} {' '.join(scalars)} {constants}"] += 1
    return dict(found)


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)


def optimized(tool: str, source: Path, target: Path, limit: int) -> dict[str, Any]:
    """What a tool makes of a file: `seconds`, `nodes` and `main`, or the `error`."""
    command = [sys.executable, __file__, tool, str(source), str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return {"error": f"over {limit} s"}
    if done.returncode or not target.exists():
        lines = done.stderr.strip().splitlines()
        return {"error": (lines or ["no message"])[-1][:200]}
    return {"seconds": json.loads(done.stdout.splitlines()[-1]), **counts(target)}


def run_tool(tool: str, source: str, target: str) -> float:
    """Optimize a file; the processor seconds that it took, those of all threads, imports left out."""
    return globals()[f"_by_{tool}"](source, target)


def _by_onnxsim(source: str, target: str) -> float:
    import onnx
    import onnxsim

    start = time.process_time()
    model, _ = onnxsim.simplify(onnx.load(source))
    onnx.save(model, target)
    return time.process_time() - start


def _by_onnxslim(source: str, target: str) -> float:
    import onnxslim

    start = time.process_time()
    onnxslim.slim(source, target)
    return time.process_time() - start


def _by_onnxscript(source: str, target: str) -> float:
    import onnx
    import onnxscript.optimizer

    start = time.process_time()
    onnx.save(onnxscript.optimizer.optimize(onnx.load(source)), target)
    return time.process_time() - start


def _by_onnxruntime(source: str, target: str) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath, options.log_severity_level = target, 4
    start = time.process_time()
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return time.process_time() - start


def _by_graphopt(source: str, target: str) -> float:
    import warnings

    import graphopt

    warnings.simplefilter("ignore")
    inputs = _example(source)
    start = time.process_time()
    graphopt.compile(source, kwargs=inputs, target="onnxruntime").to_onnx(target)
    return time.process_time() - start


def _example(source: str) -> dict[str, Any] | None:
    """Contents of inputs that decide shapes or branches: the sampling rate of silero-vad."""
    import torch

    return {"sr": torch.tensor(16000)} if "silero_vad" in source and "16k" not in source else None


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(json.dumps(run_tool(*sys.argv[1:4])))
