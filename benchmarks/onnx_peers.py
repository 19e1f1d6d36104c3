"""Optimizing ONNX files: onnxsim, onnxslim, onnxscript's optimizer, ONNX Runtime's extended level (its offline file)
and graphopt on the same files, in one run.

For each file and tool: nodes, nodes of the main operators, latency of the result in ONNX Runtime (interleaved rounds,
all of its own optimizations on), the processor time that the tool took (imports left out), and agreement with the
original, with ONNX Runtime's optimizations off, over three seeds and up to two sizes. Each tool runs in a process of
its own, under a time limit.

The bar: no file where graphopt's result has more nodes of the main operators than a peer's that agrees, is slower (the
median of the ratios of the rounds above 1.03), or disagrees. A ratio above it is measured twice more, with new
sessions, and the median counts. Where ONNX Runtime makes the same graph of both files (operators, attributes, shapes of
constants), a ratio is noise: the table shows it with a `=`.

The results are kept in the folder: `--prepare` makes them, on a machine that may be busy, and `--time` only times what
is there, a few seconds a file.

    python benchmarks/onnx_peers.py --prepare --folder DIR
    python benchmarks/onnx_peers.py --time --folder DIR --json FILE
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from onnx_files import NAMES, File, find
from onnx_tools import TOOLS, counts, kernels, optimized

from common import ROOT, onnxruntime_options, parse_args, plain, print_table, ratio, time_interleaved, write_json

OURS, BAR, LIMIT = "graphopt", 1.03, 300
ATTEMPTS = 3
"""Measurements of a file whose ratio is above the bar."""
TOLERANCE = 1e-3
"""Of the largest number of an output: what reassociation in single precision may cost in a deep network."""


def main() -> None:
    options = parse_args(
        __doc__,
        ("--only", {"nargs": "*", "default": list(NAMES), "help": "names of files, or beginnings of them"}),
        ("--folder", {"type": Path, "default": ROOT / "build" / "onnx_peers", "help": "where files are kept"}),
        ("--limit", {"type": int, "default": LIMIT, "help": "seconds that a tool may take for a file"}),
        ("--prepare", {"action": "store_true", "help": "time nothing"}),
        ("--time", {"action": "store_true", "help": "time the results that the folder holds"}),
        ("--table", {"action": "store_true", "help": "show the figures that the folder holds"}),
    )
    names = ["hf-bert/script"] if options.quick else [n for n in NAMES if any(n.startswith(o) for o in options.only)]
    results, absent = [], []
    for name in names:
        file = find(name, options.folder)
        if isinstance(file, str):
            absent.append([name, file])
            continue
        kept = options.folder / f"{stem(name)}.json"
        found = json.loads(kept.read_text()) if options.time or options.table else prepare(file, options)
        if not options.prepare and not options.table:
            found |= measure(file, found, options)
        found["verdict"] = verdict(found)
        kept.write_text(json.dumps(found, default=plain))
        results.append(found)
        print(f"{name}: {'; '.join(found['verdict']) or 'ok'}", flush=True)
    report(results, absent, options.json)


def stem(name: str) -> str:
    return name.replace("/", "-")


# Results


def prepare(file: File, options: Any) -> dict[str, Any]:
    """Run all tools on a file, and judge what they make of it."""
    options.folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"model": file.name, "sizes": len(file.feeds) // 3, "tools": {}}
    for tool in TOOLS:
        target = target_of(file.name, tool, options.folder)
        target.unlink(missing_ok=True)
        entry = results["tools"][tool] = optimized(tool, file.path, target, options.limit)
        if "error" not in entry:
            entry["disagrees"] = disagreement(file, target)
            entry["kernels"] = {} if entry["disagrees"] else kernels(target, options.threads)
    results["original"] = counts(file.path)
    return results


def target_of(name: str, tool: str, folder: Path) -> Path:
    return folder / f"{stem(name)}.{tool}.onnx"


def disagreement(file: File, result: Path) -> str:
    """Why a result disagrees with the original, both in ONNX Runtime with its optimizations off; "" if it agrees."""
    try:
        return check_results(str(file.path), {"": str(result)}, file.feeds)[""]
    except Exception as error:  # ONNX Runtime refuses the file
        return f"does not load: {str(error).splitlines()[0][:100]}"


# Agreement


def check_results(original: str, others: dict[str, str], feeds: tuple[dict[str, np.ndarray], ...]) -> dict[str, str]:
    """Why each result disagrees with the original, all in ONNX Runtime with its optimizations off; "" if it agrees."""
    sessions = {name: _session(path, optimize=False) for name, path in {"": original, **others}.items()}
    found = dict.fromkeys(others, "")
    for given in feeds:
        expected = sessions[""].run(None, _taken(sessions[""], given))
        for name in others:
            found[name] = found[name] or _difference(sessions[name], given, expected)
    return found


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


# Latency


def measure(file: File, results: dict[str, Any], options: Any) -> dict[str, Any]:
    """Latencies `ms` of the results that agree, and the `ratios` of ours to each; `attempts`: of each measurement."""
    sound = [t for t, entry in results["tools"].items() if "error" not in entry and not entry["disagrees"]]
    if OURS not in sound:
        return {}
    paths = {"original": file.path, **{tool: target_of(file.name, tool, options.folder) for tool in sound}}
    attempts: list[dict[str, float]] = []
    while len(attempts) < ATTEMPTS:
        sessions = {name: _session(str(path), True, options.threads) for name, path in paths.items()}
        given = {name: _taken(session, file.feeds[0]) for name, session in sessions.items()}
        calls = {name: (lambda s=session, f=given[name]: s.run(None, f)) for name, session in sessions.items()}
        timings = time_interleaved(calls, rounds=options.rounds, seconds=0.2, warmup=3)
        attempts.append({name: ratio(timings, OURS, name) for name in paths})
        if max(attempts[-1].values()) <= BAR:
            break
    ratios = {name: statistics.median([attempt[name] for attempt in attempts]) for name in paths}
    return {"ms": {name: t.ms for name, t in timings.items()}, "ratios": ratios, "attempts": attempts}


def _session(path: str, optimize: bool, threads: int = 1) -> Any:
    import onnxruntime

    options = onnxruntime_options(threads, optimize)
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


# Verdict


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
        if results.get("ratios", {}).get(tool, 0) > BAR and entry["kernels"] != ours["kernels"]:
            missed.append(f"{results['ratios'][tool]:.3f} of {tool}'s time")
    return missed


def report(results: list[dict[str, Any]], absent: list[list[str]], path: Path | None) -> None:
    """Print a table of the files."""
    columns = ["file", "original", *TOOLS, "worst ratio", "verdict"]
    note = "nodes / nodes of the main operators, latency of the result, processor time of the tool; =: the same kernels"
    print_table("ONNX optimizers on the same files", columns, map(_row, results), note)
    if absent:
        print_table("Not compared", ["file", "why"], absent)
    seconds = [r["tools"][OURS]["seconds"] for r in results if "seconds" in r["tools"][OURS]]
    passed = sum(not r["verdict"] for r in results)
    print(
        f"{passed} of {len(results)} files within the bar; graphopt took {statistics.median(seconds or [0]):.2g} s each"
    )
    write_json(path, "onnx_peers", {"files": results, "absent": absent})


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
        timed += " =" if tool != OURS and entry["kernels"] == tools[OURS].get("kernels") else ""
        row.append(f"{entry['nodes']}/{sum(entry['main'].values())}{timed} {entry['seconds']:.2g} s")
    ratios = {r: tool for tool, r in results.get("ratios", {}).items() if tool not in (OURS, "original")}
    worst = max(ratios, default=None)
    return [*row, worst and f"{worst:.3f} of {ratios[worst]}'s", "; ".join(results["verdict"]) or "ok"]


if __name__ == "__main__":
    main()
