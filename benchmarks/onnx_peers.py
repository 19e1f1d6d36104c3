"""Optimizing ONNX files: onnxsim, onnxslim, onnxscript's optimizer, ONNX Runtime's extended level (its offline file)
and graphopt on the same files, in one run.

For each file and tool: nodes, nodes of the main operators, latency of the result in ONNX Runtime (interleaved rounds,
all of its own optimizations on), the time that the tool took (imports left out), and agreement with the original, with
ONNX Runtime's optimizations off, over three seeds and up to two sizes. Each tool runs in a process of its own, under a
time limit.

The bar: no file where graphopt's result has more nodes of the main operators than a peer's that agrees, is slower (the
median of the ratios of the rounds above 1.03), or disagrees.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from onnx_files import NAMES, File, find

from common import ROOT, onnxruntime_options, parse_args, print_table, ratio, time_interleaved, write_json

TOOLS = ("onnxsim", "onnxslim", "onnxscript", "onnxruntime", "graphopt")
OURS, BAR, LIMIT = "graphopt", 1.03, 300
TOLERANCE = 1e-3
"""Of the largest number of an output: what reassociation in single precision may cost in a deep network."""

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
WITHIN = {"Attention": ("MatMul", "Softmax", "MatMul"), "MultiHeadAttention": ("MatMul", "Softmax", "MatMul")}
"""What operators of several parts count as; com.microsoft's Attention holds a projection more."""


def counts(path: Path) -> tuple[int, Counter[str]]:
    """All nodes of a file, and those of the main operators by family; those of branches and loops included."""
    import onnx

    main: Counter[str] = Counter()
    nodes = list(_nodes(onnx.load(path, load_external_data=False).graph))
    for node in nodes:
        parts = WITHIN.get(node.op_type, ())
        projection = ("MatMul",) if node.op_type == "Attention" and node.domain == "com.microsoft" else ()
        families = [family for family, members in FAMILIES.items() if node.op_type in members]
        main.update((*families, *parts, *projection))
    return len(nodes), main


def _nodes(graph: Any) -> Any:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)


# The tools, each in a process of its own


def run_tool(tool: str, source: str, target: str) -> float:
    """Optimize a file; the seconds that it took, imports left out."""
    return globals()[f"_by_{tool}"](source, target)


def _by_onnxsim(source: str, target: str) -> float:
    import onnx
    import onnxsim

    start = time.perf_counter()
    model, _ = onnxsim.simplify(onnx.load(source))
    onnx.save(model, target)
    return time.perf_counter() - start


def _by_onnxslim(source: str, target: str) -> float:
    import onnxslim

    start = time.perf_counter()
    onnxslim.slim(source, target)
    return time.perf_counter() - start


def _by_onnxscript(source: str, target: str) -> float:
    import onnx
    import onnxscript.optimizer

    start = time.perf_counter()
    onnx.save(onnxscript.optimizer.optimize(onnx.load(source)), target)
    return time.perf_counter() - start


def _by_onnxruntime(source: str, target: str) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath, options.log_severity_level = target, 4
    start = time.perf_counter()
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return time.perf_counter() - start


def _by_graphopt(source: str, target: str) -> float:
    import warnings

    import graphopt

    warnings.simplefilter("ignore")
    inputs = _example(source)
    start = time.perf_counter()
    graphopt.compile(source, kwargs=inputs, target="onnxruntime").to_onnx(target)
    return time.perf_counter() - start


def _example(source: str) -> dict[str, Any] | None:
    """Contents of inputs that decide shapes or branches: the sampling rate of silero-vad."""
    import torch

    return {"sr": torch.tensor(16000)} if "silero_vad" in source and "16k" not in source else None


# Agreement and latency


def check_results(original: str, others: dict[str, str], feeds: tuple[dict[str, np.ndarray], ...]) -> dict[str, str]:
    """Why each result disagrees with the original, all in ONNX Runtime with its optimizations off; "" if it agrees."""
    sessions = {name: _session(path, optimize=False) for name, path in {"": original, **others}.items()}
    found = dict.fromkeys(others, "")
    for given in feeds:
        expected = sessions[""].run(None, _taken(sessions[""], given))
        for name in others:
            found[name] = found[name] or _difference(sessions[name], given, expected)
    return found


def _session(path: str, optimize: bool, threads: int = 1) -> Any:
    import onnxruntime

    options = onnxruntime_options(threads, optimize)
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _taken(session: Any, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {value.name: given[value.name] for value in session.get_inputs()}


def _difference(session: Any, given: dict[str, np.ndarray], expected: list[np.ndarray]) -> str:
    try:
        results = session.run(None, _taken(session, given))
    except Exception as error:  # a result that does not run is a disagreement
        return f"does not run: {str(error).splitlines()[0][:100]}"
    if len(results) != len(expected):
        return f"{len(results)} outputs"
    for index, (got, want) in enumerate(zip(results, expected)):
        if got.shape != want.shape or got.dtype != want.dtype:
            return f"output {index} is {got.dtype}{list(got.shape)}, not {want.dtype}{list(want.shape)}"
        if not np.array_equal(np.isnan(got), np.isnan(want)):
            return f"output {index} is NaN elsewhere"
        error = np.nanmax(np.abs(got.astype(np.float64) - want), initial=0.0)
        scale = np.nanmax(np.abs(want.astype(np.float64)), initial=0.0)
        if error > TOLERANCE * scale:
            return f"output {index} differs by {error / max(scale, 1e-30):.1e} of its scale"
    return ""


def measure_latency(paths: dict[str, str], feeds: dict[str, np.ndarray], rounds: int, threads: int) -> dict[str, Any]:
    """Milliseconds, and the ratio of ours to each."""
    sessions = {name: _session(path, True, threads) for name, path in paths.items()}
    given = {name: _taken(session, feeds) for name, session in sessions.items()}
    calls = {name: (lambda s=session, f=given[name]: s.run(None, f)) for name, session in sessions.items()}
    timings = time_interleaved(calls, rounds=rounds, seconds=0.3, warmup=3)
    ratios = {name: ratio(timings, OURS, name) for name in paths if OURS in paths}
    return {"ms": {name: t.ms for name, t in timings.items()}, "ratios": ratios}


# One file


def compare(file: File, folder: Path, rounds: int, threads: int, limit: int) -> dict[str, Any]:
    """Run all tools on a file, and judge what they make of it."""
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"model": file.name, "sizes": len(file.feeds) // 3, "tools": {}}
    paths: dict[str, str] = {}
    for tool in TOOLS:
        target = folder / f"{file.name.replace('/', '-')}.{tool}.onnx"
        target.unlink(missing_ok=True)
        entry = results["tools"][tool] = _optimized(tool, file.path, target, limit)
        if "error" not in entry:
            paths[tool] = str(target)
    disagreements = _judged(file, paths)
    for tool, reason in disagreements.items():
        results["tools"][tool]["disagrees"] = reason
    sound = {tool: path for tool, path in paths.items() if not disagreements[tool]}
    if OURS in sound:
        results |= measure_latency({"original": str(file.path), **sound}, file.feeds[0], rounds, threads)
    results["original"] = dict(zip(("nodes", "main"), counts(file.path)))
    results["verdict"] = verdict(results)
    return results


def _optimized(tool: str, source: Path, target: Path, limit: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--tool", tool, str(source), str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return {"error": f"over {limit} s"}
    if done.returncode or not target.exists():
        lines = done.stderr.strip().splitlines()
        return {"error": (lines or ["no message"])[-1][:200]}
    nodes, main = counts(target)
    return {"seconds": json.loads(done.stdout.splitlines()[-1]), "nodes": nodes, "main": main}


def _judged(file: File, paths: dict[str, str]) -> dict[str, str]:
    """Each result by itself, so that one that cannot be loaded is no trouble to the others."""
    found = {}
    for tool, path in paths.items():
        try:
            found |= check_results(str(file.path), {tool: path}, file.feeds)
        except Exception as error:  # ONNX Runtime refuses the file
            found[tool] = f"does not load: {str(error).splitlines()[0][:100]}"
    return found


def verdict(results: dict[str, Any]) -> list[str]:
    """What misses the bar."""
    tools = results["tools"]
    ours = tools[OURS]
    if "error" in ours:
        return [f"refused: {ours['error']}"]
    if ours["disagrees"]:
        return [f"disagrees: {ours['disagrees']}"]
    missed = []
    for tool, entry in tools.items():
        if tool == OURS or "error" in entry or entry["disagrees"]:
            continue
        if sum(ours["main"].values()) > sum(entry["main"].values()):
            missed.append(f"{sum(ours['main'].values())} main nodes, {tool} {sum(entry['main'].values())}")
        if results["ratios"][tool] > BAR:
            missed.append(f"{results['ratios'][tool]:.3f} of {tool}'s time")
    return missed


def _row(results: dict[str, Any]) -> list[Any]:
    original, tools = results["original"], results["tools"]
    row: list[Any] = [results["model"], f"{original['nodes']}/{sum(original['main'].values())}"]
    for tool in TOOLS:
        entry = tools[tool]
        if "error" in entry or entry["disagrees"]:
            row.append("failed" if "error" in entry else "wrong")
            continue
        ms = results.get("ms", {}).get(tool)
        timed = f" {ms:.3g} ms" if ms is not None else ""
        row.append(f"{entry['nodes']}/{sum(entry['main'].values())}{timed} {entry['seconds']:.2g} s")
    ratios = [r for tool, r in results.get("ratios", {}).items() if tool not in (OURS, "original")]
    return [*row, max(ratios, default=None), "; ".join(results["verdict"]) or "ok"]


def main() -> None:
    options = parse_args(
        __doc__,
        ("--only", {"nargs": "*", "default": list(NAMES), "help": "names of files, or beginnings of them"}),
        ("--folder", {"type": Path, "default": ROOT / "build" / "onnx_peers", "help": "where files are kept"}),
        ("--limit", {"type": int, "default": LIMIT, "help": "seconds that a tool may take for a file"}),
    )
    names = ["hf-bert/script"] if options.quick else [n for n in NAMES if any(n.startswith(o) for o in options.only)]
    results, absent = [], []
    for name in names:
        file = find(name, options.folder)
        if isinstance(file, str):
            absent.append([name, file])
            continue
        results.append(compare(file, options.folder, options.rounds, options.threads, options.limit))
        print(f"{name}: {'; '.join(results[-1]['verdict']) or 'ok'}", flush=True)
    columns = ["file", "original", *TOOLS, "worst ratio", "verdict"]
    note = "nodes / nodes of the main operators, latency of the result, time of the tool"
    print_table("ONNX optimizers on the same files", columns, map(_row, results), note)
    if absent:
        print_table("Not compared", ["file", "why"], absent)
    seconds = [r["tools"][OURS]["seconds"] for r in results if "seconds" in r["tools"][OURS]]
    passed = sum(not r["verdict"] for r in results)
    print(
        f"{passed} of {len(results)} files within the bar; graphopt took {statistics.median(seconds or [0]):.2g} s each"
    )
    write_json(options.json, "onnx_peers", {"files": results, "absent": absent})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--tool"]:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        print(json.dumps(run_tool(*sys.argv[2:5])))
    else:
        main()
