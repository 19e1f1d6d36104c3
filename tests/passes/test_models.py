"""The default pipeline on real architectures: no pass is rolled back, outputs are eager's, node counts fall."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

from graphopt.frontends import capture
from graphopt.ir import Graph, Slot
from graphopt.passmanager import PassContext, PassManager
from graphopt.pipelines import canonical_pipeline, default_pipeline
from tests.frontends.running import run
from tests.zoo import MODELS

# Operators of each model after the default pipeline: the most nodes that may be left, and names that may not be.
EXPECTED = {
    "resnet8": (21, {"aten.batch_norm"}),
    "hf-resnet": (23, {"aten.batch_norm"}),
    "hf-mobilenet-v2": (104, {"aten.batch_norm", "aten.constant_pad_nd"}),
    "hf-levit": (102, {"aten.batch_norm"}),
    "hf-swin": (140, {"aten.dropout", "aten.contiguous"}),
    "hf-bert": (52, {"aten.dropout", "aten.index", "aten.expand"}),
    "transformer-encoder": (65, {"aten.dropout"}),
}


def flat_inputs(graph: Graph, args: tuple, kwargs: dict) -> list:
    assert graph.signature is not None
    leaves = pytree.tree_leaves((args, kwargs))
    return [leaf for leaf, where in zip(leaves, graph.signature.in_leaves) if isinstance(where, Slot)]


@pytest.mark.parametrize("name", EXPECTED)
def test_default_pipeline(name: str) -> None:
    entry = MODELS[name]
    model = entry.build()
    args, kwargs = entry.inputs(batch=2)
    graph = capture(model, args, kwargs, dynamic_shapes="batch")
    context = PassContext(samples=[flat_inputs(graph, args, kwargs)])
    optimized, report = PassManager(default_pipeline(), on_failure="raise", verify="full").run(graph, context)

    most, absent = EXPECTED[name]
    assert len(optimized) <= most < len(graph)
    assert not absent & {node.op.base for node in optimized}
    assert report.total_error is not None
    for batch in (2, 3):
        args, kwargs = entry.inputs(batch=batch, seed=batch)
        with torch.no_grad():
            expected = model(*args, **kwargs)
        close(run(optimized, args, kwargs)[0], expected)


@pytest.mark.parametrize("name", ["hf-mobilenet-v2", "hf-gpt2"])
def test_canonical_pipeline_changes_no_weight(name: str) -> None:
    entry = MODELS[name]
    args, kwargs = entry.inputs(batch=2)
    graph = capture(entry.build(), args, kwargs)
    optimized, _ = PassManager(canonical_pipeline(), validate=False, on_failure="raise", verify="full").run(graph)
    assert len(optimized) < len(graph)
    tensors = {id(v.constant.tensor) for v in graph.constants.values()}
    assert all(id(v.constant.tensor) in tensors for v in optimized.constants.values())


def test_trainable_keeps_batch_norms_and_parameters() -> None:
    entry = MODELS["resnet8"]
    args, kwargs = entry.inputs(batch=2)
    graph = capture(entry.build(), args, kwargs)
    pipeline = default_pipeline("fx", trainable=True)
    context = PassContext(target="fx", trainable=True)
    optimized, _ = PassManager(pipeline, validate=False, on_failure="raise", verify="full").run(graph, context)
    assert sum(node.op.base == "aten.batch_norm" for node in optimized) == 9
    parameters = {name for name, v in graph.constants.items() if v.constant.kind.value == "parameter"}
    assert parameters <= set(optimized.constants)


def close(actual: object, expected: object) -> None:
    found, wanted = pytree.tree_leaves(actual), pytree.tree_leaves(expected)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted):
        if isinstance(b, torch.Tensor):
            scale = b.detach().double().abs().max().item() if b.numel() else 0.0
            torch.testing.assert_close(a.double(), b.detach().double(), rtol=0, atol=2e-5 * scale)
