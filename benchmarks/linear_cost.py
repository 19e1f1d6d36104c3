"""Cost of the default pipeline per node, on a chain and on a randomly branching graph, beside ONNX simplifiers.

The chain repeats: add 0, transpose, transpose, mul 1, activation. It is built in the IR for graphopt, and as an ONNX
model in memory for the peers. Verification is on, numeric validation off.

The bars: time per node flat within 1.5x from 1,000 to 100,000 nodes; at 20,000 nodes within 2x of onnxsim and at
least 50x faster than onnxslim.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from common import parse_args, print_table, write_json
from graphopt.ir import DType, Graph, TensorType, Value
from graphopt.passmanager import PassContext, PassManager
from graphopt.pipelines import default_pipeline
from graphopt.rewrite import Rewriter

SIZES = (1_000, 5_000, 20_000, 100_000)
PEER_SIZE = 20_000
SHAPE = (8, 16)


def chain(nodes: int) -> Graph:
    """The chain of clean-ups, five nodes a link."""
    graph = Graph()
    value = graph.add_input("x", TensorType(DType.F32, SHAPE))
    rewriter = Rewriter(graph)
    for index in range(nodes // 5):
        value = rewriter.create("aten.add.Scalar", value, 0).result
        value = rewriter.create("aten.transpose.int", value, 0, 1).result
        value = rewriter.create("aten.transpose.int", value, 0, 1).result
        value = rewriter.create("aten.mul.Scalar", value, 1).result
        value = rewriter.create("aten.relu" if index % 2 else "aten.sigmoid", value).result
    graph.set_outputs([value])
    return graph


def branching(nodes: int) -> Graph:
    """Random operators on random earlier values; what nothing uses is dead."""
    chosen = random.Random(0)
    graph = Graph()
    values: list[Value] = [graph.add_input(f"x{i}", TensorType(DType.F32, SHAPE)) for i in range(4)]
    rewriter = Rewriter(graph)
    for _ in range(nodes):
        recent = values[-64:]
        first, second = chosen.choice(recent), chosen.choice(recent)
        kind = chosen.randrange(5)
        if kind == 0:
            made = rewriter.create("aten.add.Tensor", first, second)
        elif kind == 1:
            made = rewriter.create("aten.mul.Scalar", first, 1)
        elif kind == 2:
            made = rewriter.create("aten.sigmoid", first)
        elif kind == 3:
            made = rewriter.create("aten.add.Scalar", first, 0)
        else:
            made = rewriter.create("aten.relu", first)
        values.append(made.result)
    graph.set_outputs(values[-8:])
    return graph


def optimize(graph: Graph) -> Graph:
    """The default pipeline with verification and without numeric validation."""
    manager = PassManager(default_pipeline("onnxruntime"), validate=False)
    return manager.run(graph, PassContext(target="onnxruntime")).graph


def onnx_chain(nodes: int) -> Any:
    """The chain as an ONNX model."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    made, name = [], "x"
    for index in range(nodes // 5):
        steps: list[tuple[str, list[str], dict[str, Any]]] = [
            ("Add", ["zero"], {}),
            ("Transpose", [], {"perm": [1, 0]}),
            ("Transpose", [], {"perm": [1, 0]}),
            ("Mul", ["one"], {}),
            ("Relu" if index % 2 else "Sigmoid", [], {}),
        ]
        for step, (op, extra, attributes) in enumerate(steps):
            output = f"v{index}_{step}"
            made.append(helper.make_node(op, [name, *extra], [output], **attributes))
            name = output
    constants = [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in (("zero", 0), ("one", 1))]
    graph = helper.make_graph(
        made,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def onnxsim_seconds(model: Any) -> tuple[float, int]:
    """onnxsim on a model in memory: seconds and nodes left."""
    import onnxsim

    start = time.perf_counter()
    simplified, _ = onnxsim.simplify(model)
    return time.perf_counter() - start, len(simplified.graph.node)


def onnxslim_seconds(model: Any) -> tuple[float, int]:
    """onnxslim on a model in memory: seconds and nodes left."""
    import onnxslim

    start = time.perf_counter()
    slimmed = onnxslim.slim(model)
    return time.perf_counter() - start, len(slimmed.graph.node)


def per_node(build: Callable[[int], Graph], size: int, rounds: int) -> tuple[float, int]:
    """Median seconds of the pipeline on fresh graphs, and the nodes left."""
    times, left = [], 0
    for _ in range(rounds):
        graph = build(size)
        start = time.perf_counter()
        optimized = optimize(graph)
        times.append(time.perf_counter() - start)
        left = len(optimized)
    return statistics.median(times), left


def main() -> None:
    options = parse_args(__doc__, ("--skip-onnxslim", {"action": "store_true", "help": "leave out the slow peer"}))
    sizes = SIZES[:2] if options.quick else SIZES
    optimize(chain(100))
    results: dict[str, Any] = {}
    rows = []
    for build in (chain, branching):
        per_size = {}
        for size in sizes:
            seconds, left = per_node(build, size, 3)
            per_size[size] = seconds
            rows.append([build.__name__, size, left, seconds, seconds / size * 1e6])
        costs = [seconds / size for size, seconds in per_size.items()]
        results[build.__name__] = {"seconds": per_size, "flatness": max(costs) / min(costs)}
    print_table("Default pipeline", ["graph", "nodes", "left", "seconds", "µs a node"], rows)

    peer_size = sizes[-1] if options.quick else PEER_SIZE
    model = onnx_chain(peer_size)
    ours = results["chain"]["seconds"][peer_size]
    peers = {"onnxsim": onnxsim_seconds(model)}
    if not (options.skip_onnxslim or options.quick):
        peers["onnxslim"] = onnxslim_seconds(model)
    rows = [["graphopt", ours, "", 1.0]]
    rows += [[name, seconds, left, seconds / ours] for name, (seconds, left) in peers.items()]
    print_table(f"Chain of {peer_size:,} nodes", ["tool", "seconds", "nodes left", "times graphopt"], rows)
    for name in ("chain", "branching"):
        print(f"flatness of {name}: {results[name]['flatness']:.2f} (bar: 1.5)")
    results["peers"] = {name: {"seconds": seconds, "left": left} for name, (seconds, left) in peers.items()}
    write_json(options.json, "linear_cost", results)


if __name__ == "__main__":
    main()
