"""Models of the zoo, captured with static and dynamic sizes, against eager."""

from __future__ import annotations

import pytest
import torch

from graphopt.frontends import capture
from graphopt.ir import verify
from tests.frontends.running import run, same
from tests.zoo import MODELS

NAMES = [
    *("resnet8", "unet", "shufflenet", "norms", "resample", "audio", "lstm", "gru", "stateful-lstm"),
    *("transformer-encoder", "graph-network", "ranker", "multi-output", "nested-input", "tied", "in-place"),
    *("input-mutation", "cond", "while-loop", "data-dependent-shape", "custom-operator", "mixed-types"),
    *("empty", "constant-output", "hf-mobilenet-v2", "hf-beit", "hf-bert", "hf-gpt2"),
]


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", NAMES)
def test_zoo_model(name: str, dynamic: bool) -> None:
    entry = MODELS[name]
    if dynamic and entry.dynamic is None:
        pytest.fail(f"{name} has no dynamic dims: list it apart")
    args, kwargs = entry.inputs(batch=2)
    graph = capture(entry.build(), args, kwargs, dynamic_shapes=entry.dynamic_shapes() if dynamic else None)
    verify(graph)
    for batch in (2, 3) if dynamic else (2,):
        args, kwargs = entry.inputs(batch=batch, seed=7)
        result, _ = run(graph, args, kwargs)
        with torch.no_grad():
            same(result, entry.build()(*args, **kwargs), 1e-4)
