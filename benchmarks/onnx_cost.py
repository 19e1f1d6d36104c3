"""What a large ONNX file costs to optimize, from file to file: time per node, and peak memory.

1. A chain of N nodes (add 0, transpose twice, multiply by 1, activate) is read, optimized and written, by graphopt and
   by onnxsim in the same run. The bars: at 20,000 nodes within 2x of onnxsim; time per node flat within 1.5x from 1,000
   to 100,000 nodes.
2. A model of 4 GB (linear layers; weights in external data) is read, optimized and written by a process of its own,
   whose peak resident memory (VmHWM), mapped pages included, is taken. The bar: at most 1.3 times the model's size.
   Numeric validation is off in both, as it runs the model.

    python benchmarks/onnx_cost.py --gigabytes 4
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from linear_cost import onnx_chain

from common import parse_args, print_table, write_json

SIZES = (1_000, 20_000, 100_000)
PEER_SIZE = 20_000
WIDTH = 4096
LAYER_BYTES = 4 * WIDTH * WIDTH


def main() -> None:
    options = parse_args(
        __doc__,
        ("--gigabytes", {"type": float, "default": 4.0, "help": "size of the large model; 0 leaves it out"}),
        ("--optimize", {"nargs": 2, "metavar": ("IN", "OUT"), "help": "optimize one file, and print the peak memory"}),
    )
    if options.optimize:
        graphopt_file(*map(Path, options.optimize))
        print(peak_bytes())
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = {"time": times(folder, SIZES[:2] if options.quick else SIZES)}
        gigabytes = min(options.gigabytes, 0.5) if options.quick else options.gigabytes
        if gigabytes:
            results["memory"] = memory(folder, round(gigabytes * 2**30 / LAYER_BYTES))
    write_json(options.json, "onnx_cost", results)


def times(folder: Path, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Optimize chains of several lengths."""
    graphopt_file(chain_file(folder, 100), folder / "warm.onnx")
    tools: dict[str, Callable[[Path, Path], int]] = {"graphopt": graphopt_file, "onnxsim": onnxsim_file}
    seconds: dict[str, dict[int, float]] = {name: {} for name in tools}
    rows = []
    for size in sizes:
        path = chain_file(folder, size)
        for name, tool in tools.items():
            if name == "onnxsim" and size != PEER_SIZE:
                continue
            seconds[name][size], left = timed(tool, path, folder / f"{name}.onnx")
            rows.append([name, size, left, seconds[name][size], seconds[name][size] / size * 1e6])
    print_table("From file to file", ["tool", "nodes", "left", "seconds", "µs a node"], rows)
    per_node = [s / size for size, s in seconds["graphopt"].items()]
    flatness, ratio = max(per_node) / min(per_node), seconds["graphopt"][PEER_SIZE] / seconds["onnxsim"][PEER_SIZE]
    print(f"graphopt / onnxsim at {PEER_SIZE:,} nodes: {ratio:.2f} (bar: 2); flatness: {flatness:.2f} (bar: 1.5)")
    return {"seconds": seconds, "ratio": ratio, "flatness": flatness}


def timed(tool: Callable[[Path, Path], int], source: Path, target: Path) -> tuple[float, int]:
    """The median of three runs, and the nodes left."""
    taken, left = [], 0
    for _ in range(3):
        start = time.perf_counter()
        left = tool(source, target)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken), left


def graphopt_file(source: Path, target: Path) -> int:
    """graphopt from file to file; the nodes left."""
    import graphopt

    compiled = graphopt.compile(source, target="onnx", validate=False)
    return len(compiled.to_onnx(target).graph.node)


def onnxsim_file(source: Path, target: Path) -> int:
    """onnxsim from file to file; the nodes left."""
    import onnx
    import onnxsim

    simplified, _ = onnxsim.simplify(onnx.load(source))
    onnx.save(simplified, target)
    return len(simplified.graph.node)


def chain_file(folder: Path, nodes: int) -> Path:
    """Write the chain."""
    import onnx

    path = folder / f"chain{nodes}.onnx"
    onnx.save(onnx_chain(nodes), path)
    return path


def memory(folder: Path, layers: int) -> dict[str, float]:
    """Optimize a large file in a process of its own."""
    source = large_file(folder, layers)
    size = layers * LAYER_BYTES
    start = time.perf_counter()
    command = [sys.executable, __file__, "--optimize", str(source), str(folder / "large_optimized.onnx")]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    base = int(
        subprocess.run([*command[:3], *smallest(folder)], check=True, capture_output=True, text=True).stdout.split()[-1]
    )
    found = {"size": size, "peak": peak, "peak of a small model": base, "seconds": time.perf_counter() - start}
    rows = [[layers, size / 1e9, base / 1e9, peak / 1e9, peak / size, found["seconds"]]]
    columns = ["layers", "GB", "GB peak, small model", "GB peak", "peak / size (bar: 1.3)", "seconds"]
    print_table("Peak memory", columns, rows)
    return found


def smallest(folder: Path) -> list[str]:
    """The files of a chain, for what the process takes without a model."""
    return [str(chain_file(folder, 10)), str(folder / "small_optimized.onnx")]


def large_file(folder: Path, layers: int) -> Path:
    """Write linear layers, each with weights of 64 MB, one at a time."""
    import numpy as np
    from onnx import TensorProto, helper, save

    generator = np.random.default_rng(0)
    nodes, weights, name = [], [], "x"
    with open(folder / "large.bin", "wb") as file:
        for i in range(layers):
            tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH])
            tensor.data_location = TensorProto.EXTERNAL
            fields = {"location": "large.bin", "offset": str(file.tell()), "length": str(LAYER_BYTES)}
            for key, value in fields.items():
                entry = tensor.external_data.add()
                entry.key, entry.value = key, value
            file.write(generator.standard_normal((WIDTH, WIDTH), dtype=np.float32).tobytes())
            weights.append(tensor)
            nodes.append(helper.make_node("MatMul", [name, f"w{i}"], [f"m{i}"]))
            nodes.append(helper.make_node("Relu", [f"m{i}"], [f"r{i}"]))
            nodes.append(helper.make_node("Identity", [f"r{i}"], [f"y{i}"]))
            name = f"y{i}"
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", WIDTH]) for n in ("x", name)]
    graph = helper.make_graph(nodes, "large", infos[:1], infos[1:], weights)
    path = folder / "large.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def peak_bytes() -> int:
    """The peak of this process's resident memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
