"""What integers buy in ONNX Runtime: every quantized file against its fp32 file, in one run, rounds interleaved.

    static    ResNet-18 in int8 beside ONNX Runtime's own `quantize_static` of the same fp32 file; by default also what
              the measured guard (`only_if_faster`) makes of it
    dynamic   MiniLM with int8 products, scales found as it runs, beside fp32; and the same products alone, which bound
              what the whole can gain
    compose   ResNet-18 with half of its channels, in int8, and both; and the error of each step

Sizes of the files are printed, too. The bars: static at most 1.03 of ONNX Runtime's file; dynamic at least 1.3x fp32;
pruned and quantized faster than either alone; int8 files within 27 % of fp32.

    python benchmarks/quantize_speed.py [static|dynamic|compose ...] [--quick] [--json FILE]
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

import graphopt
from common import onnxruntime_options, parse_args, print_table, ratio, time_interleaved, write_json
from tests.zoo import MODELS

QUANTIZE = "default,quantize,fold-constants,dead-code"
PRUNE = "prune-channels{ratio=0.5}"
DYNAMIC = "default,quantize-dynamic,quantize-weights{dtype=uint8},fold-constants,dead-code"
BARS = {"static": 1.03, "dynamic": 1 / 1.3, "size": 0.27}
Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """One file. against: its time over that of fp32. sqnr: of its outputs against fp32's, in decibels."""

    part: str
    file: str
    ms: float
    against: float
    size: float
    sqnr: float


class Timed:
    """Files of one model, timed side by side; the first is the reference."""

    def __init__(self, part: str, feeds: Feeds, threads: int) -> None:
        self.part, self.feeds, self.threads = part, feeds, threads
        self.sessions: dict[str, Any] = {}
        self.sizes: dict[str, int] = {}

    def add(self, name: str, model: onnx.ModelProto) -> None:
        """Load a file."""
        data = model.SerializeToString()
        self.sizes[name] = len(data)
        self.sessions[name] = onnxruntime.InferenceSession(
            data, onnxruntime_options(self.threads), ["CPUExecutionProvider"]
        )

    def rows(self, rounds: int, seconds: float) -> Iterator[Row]:
        """The figures of each."""
        calls: Mapping[str, Callable[[], Any]] = {
            name: (lambda session=session: session.run(None, self.feeds)) for name, session in self.sessions.items()
        }
        outputs = {name: torch.from_numpy(call()[0]).double() for name, call in calls.items()}
        timings = time_interleaved(calls, rounds, seconds)
        first = next(iter(calls))
        for name, timing in timings.items():
            noise = (outputs[name] - outputs[first]).square().sum()
            sqnr = float(10 * torch.log10(outputs[first].square().sum() / noise))
            size = self.sizes[name] / self.sizes[first]
            yield Row(self.part, name, timing.ms, ratio(timings, name, first), size, sqnr)


def compiled(name: str, passes: str, calibrated: bool = True, validated: bool = False) -> graphopt.CompiledModel:
    """A model of the zoo in ONNX, calibrated on four samples like those that it is timed on.

    validated: also measure the error of each pass.
    """
    entry = MODELS[name]
    args, kwargs = entry.inputs(batch=1)
    data = [entry.inputs(batch=1, seed=seed)[0] for seed in range(4)] if calibrated else None
    return graphopt.compile(
        entry.build(),
        args,
        kwargs,
        target="onnxruntime",
        passes=passes,
        calibration=data,
        validate="each" if validated else False,
        on_failure="raise",
    )


def feeds_of(name: str, model: onnx.ModelProto) -> Feeds:
    """Inputs of a model of the zoo under the file's names."""
    args, kwargs = MODELS[name].inputs(batch=1)
    given = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]
    return {value.name: x.numpy() for value, x in zip(model.graph.input, given, strict=True)}


def peer(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """What `quantize_static` makes of a file: scales for each channel, unsigned activations, which is its fastest."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            batches = [MODELS[name].inputs(batch=1, seed=seed)[0] for seed in range(4)]
            self.batches = iter([{model.graph.input[0].name: args[0].numpy()} for args in batches])

        def get_next(self) -> Any:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as folder:
        plain, made = Path(folder) / "plain.onnx", Path(folder) / "made.onnx"
        onnx.save(model, plain)
        quantize_static(plain, made, Reader(), per_channel=True, activation_type=QuantType.QUInt8)
        return onnx.load(made)


def static(threads: int) -> Timed:
    """ResNet-18: fp32, ours, ours with the guard, ONNX Runtime's."""
    plain = compiled("resnet18", "default").to_onnx()
    timed = Timed("static", feeds_of("resnet18", plain), threads)
    timed.add("fp32", plain)
    timed.add("int8", compiled("resnet18", QUANTIZE).to_onnx())
    guarded = QUANTIZE.replace("quantize", "quantize{only_if_faster=true}")
    timed.add("int8, where measured faster", compiled("resnet18", guarded).to_onnx())
    timed.add("ONNX Runtime's int8", peer(plain, "resnet18"))
    return timed


def dynamic(threads: int) -> Timed:
    """MiniLM: fp32, and with products on integers."""
    plain = compiled("minilm", "default", calibrated=False).to_onnx()
    timed = Timed("dynamic", feeds_of("minilm", plain), threads)
    timed.add("fp32", plain)
    timed.add("dynamic int8", compiled("minilm", DYNAMIC, calibrated=False).to_onnx())
    return timed


def products(threads: int) -> Timed:
    """The products of one layer of MiniLM alone on 32 tokens: what int8 kernels give at best on this chip."""
    sizes = ((384, 1152), (384, 384), (384, 1536), (1536, 384))
    draw = np.random.default_rng(0).standard_normal
    feeds = {f"x{k}": draw((32, k)).astype(np.float32) for k in {k for k, _ in sizes}}
    timed = Timed("products alone", feeds, threads)
    for name in ("fp32", "int8"):
        nodes, stored = [], []
        for index, (k, n) in enumerate(sizes):
            weight = draw((k, n)).astype(np.float32)
            y = f"y{index}"
            if name == "fp32":
                stored.append(onnx.numpy_helper.from_array(weight, f"w{index}"))
                nodes.append(helper.make_node("MatMul", [f"x{k}", f"w{index}"], [y]))
                continue
            stored.append(onnx.numpy_helper.from_array((weight * 30).clip(-127, 127).astype(np.int8), f"w{index}"))
            quantized = [f"q{index}", f"s{index}", f"z{index}"]
            nodes.append(helper.make_node("DynamicQuantizeLinear", [f"x{k}"], quantized))
            nodes.append(helper.make_node("MatMulInteger", [quantized[0], f"w{index}", quantized[2]], [f"i{index}"]))
            nodes.append(helper.make_node("Cast", [f"i{index}"], [f"f{index}"], to=TensorProto.FLOAT))
            nodes.append(helper.make_node("Mul", [f"f{index}", quantized[1]], [y]))
        inputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, list(value.shape)) for x, value in feeds.items()]
        outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [32, n]) for i, (_, n) in enumerate(sizes)]
        graph = helper.make_graph(nodes, name, inputs, outputs, stored)
        timed.add(name, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    return timed


def compose(threads: int) -> Timed:
    """ResNet-18: fp32, pruned, int8, both."""
    plain = compiled("resnet18", "default").to_onnx()
    timed = Timed("compose", feeds_of("resnet18", plain), threads)
    timed.add("fp32", plain)
    timed.add("pruned", compiled("resnet18", f"{PRUNE},default").to_onnx())
    timed.add("int8", compiled("resnet18", QUANTIZE).to_onnx())
    both = compiled("resnet18", f"{PRUNE},{QUANTIZE}", validated=True)
    timed.add("pruned, int8", both.to_onnx())
    waterfall = [[r.name, r.error.relative_rms] for r in both.report.passes.records if r.error]
    print_table("error of each step, pruned and int8", ("pass", "relative rms so far"), waterfall)
    return timed


PARTS: dict[str, tuple[Callable[[int], Timed], ...]] = {
    "static": (static,),
    "dynamic": (dynamic, products),
    "compose": (compose,),
}


def main() -> None:
    extra = (("parts", {"nargs": "*", "choices": [*PARTS, []], "help": "all by default"}),)
    chosen = parse_args(__doc__, *extra)
    found: list[Row] = []
    for part in chosen.parts or PARTS:
        for make in PARTS[part]:
            found += make(chosen.threads).rows(chosen.rounds, 0.1 if chosen.quick else 0.5)
    columns = ("part", "file", "ms", "time / fp32", "size / fp32", "SQNR dB")
    print_table("against fp32, in one run", columns, [[*vars(row).values()] for row in found])
    by = {(row.part, row.file): row for row in found}
    if "static" in {row.part for row in found}:
        own, theirs = by["static", "int8"].ms, by["static", "ONNX Runtime's int8"].ms
        print(f"int8 against ONNX Runtime's own: {own / theirs:.3f} (at most {BARS['static']})")
    write_json(chosen.json, "quantize_speed", found)


if __name__ == "__main__":
    main()
