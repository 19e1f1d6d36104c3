"""The zoo itself: models build, are deterministic, answer to their inputs, keep the random state."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

from tests.zoo import MODELS, ZooModel, select
from tests.zoo.audit import call

SMALL = select("own", without=("large", "trained"))


def float_leaves(leaves: list[object]) -> list[torch.Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


@pytest.mark.parametrize("entry", SMALL, ids=lambda entry: entry.name)
def test_builds_the_same_model_twice_and_restores_the_random_state(entry: ZooModel) -> None:
    before = torch.random.get_rng_state()
    first, second = entry.build(), entry.build()
    inputs = entry.inputs()
    assert torch.equal(before, torch.random.get_rng_state())
    assert not any(module.training for module in first.modules())
    one, two = call(first, inputs), call(second, inputs)
    assert float_leaves(one)
    for left, right in zip(float_leaves(one), float_leaves(two), strict=True):
        assert torch.equal(left, right)
        assert torch.isfinite(left.to(torch.float64)).all()


@pytest.mark.parametrize("entry", SMALL, ids=lambda entry: entry.name)
def test_output_answers_to_the_input(entry: ZooModel) -> None:
    model = entry.build()
    one, two = (
        float_leaves(call(model, entry.inputs(seed=1))),
        float_leaves(call(model, entry.inputs(seed=2))),
    )
    assert any(
        a.shape != b.shape or (a - b).abs().amax() > 1e-3 * a.abs().amax() for a, b in zip(one, two, strict=True)
    )


def test_dynamic_specs_name_real_axes() -> None:
    for entry in MODELS.values():
        if entry.dynamic is None:
            assert entry.static_reason, entry.name
            continue
        args, kwargs = entry.inputs()
        rank = max(leaf.dim() for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
        shapes = entry.dynamic_shapes()
        axes = [axis for axis in pytree.tree_leaves(shapes) if isinstance(axis, int)]
        assert entry.dynamic_dims
        assert all(axis < rank for axis in axes)
        assert set(kwargs) <= set(shapes)


def test_transformers_models_are_at_least_twenty_architectures() -> None:
    families = {tag: len(select("transformers", tag)) for tag in ("cnn", "encoder", "decoder", "encoder-decoder")}
    assert len(select("transformers")) >= 20
    assert min(families.values()) >= 4
    assert select("moe") and select("ssm") and select("audio") and select("multimodal")


@pytest.mark.parametrize("name", ["hf-resnet", "hf-bert", "hf-llama", "hf-t5"])
def test_transformers_models_build_and_run(name: str) -> None:
    leaves = float_leaves(call(MODELS[name].build(), MODELS[name].inputs()))
    assert leaves and all(torch.isfinite(leaf).all() for leaf in leaves)
