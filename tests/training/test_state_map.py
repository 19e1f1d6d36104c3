"""An old checkpoint cut down to a pruned model, also after the model was saved and loaded."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import graphopt
from graphopt.errors import GraphOptError
from graphopt.state_map import StateMap
from tests.zoo.trained import trained_lenet


@pytest.fixture(scope="module")
def lenet() -> tuple[nn.Module, graphopt.CompiledModel, torch.Tensor]:
    """A trained network, the same pruned in two steps, and images."""
    trained = trained_lenet()
    images = trained.data.images[:8]
    once = graphopt.prune(trained.module, (images,), dynamic_shapes="batch", ratio=0.25)
    return trained.module, graphopt.prune(once, (images,), dynamic_shapes="batch", ratio=0.5), images


def test_slices_are_the_pruned_weights(lenet) -> None:
    model, small, _ = lenet
    found = small.slice_state_dict(model.state_dict())
    assert list(found) == list(small.state_dict())
    kept = small.state_map.kept
    assert len(kept["conv1.weight"][0]) == small.state_dict()["conv1.weight"].shape[0] < 16
    assert torch.equal(found["conv2.weight"], model.conv2.weight[kept["conv2.weight"][0]][:, kept["conv2.weight"][1]])
    for name in ("conv1.weight", "conv2.weight", "fc1.weight", "bn1.running_mean"):
        assert torch.equal(found[name], small.state_dict()[name])


def test_another_checkpoint_runs_in_the_pruned_model(lenet) -> None:
    """The pruned model with a slice of other weights is the other model with the same channels zeroed."""
    _, small, images = lenet
    other = trained_lenet(seed=1).module
    again = graphopt.load(saved(small))
    again.load_state_dict(again.slice_state_dict(other.state_dict()))
    kept = again.state_map.kept
    with torch.no_grad():
        for name, tensor in other.named_parameters():
            for dim, indices in kept.get(name, {}).items():
                if dim == 0:
                    tensor.index_fill_(0, torch.from_numpy(np.setdiff1d(np.arange(tensor.shape[0]), indices)), 0)
        torch.testing.assert_close(again(images), other(images), atol=1e-4, rtol=1e-4)


def saved(model: graphopt.CompiledModel) -> io.BytesIO:
    buffer = io.BytesIO()
    model._save(buffer)
    buffer.seek(0)
    return buffer


def test_saved_form_has_the_map_and_no_pickle(lenet, tmp_path: Path) -> None:
    _, small, images = lenet
    path = tmp_path / "small.gopt"
    small.save(path)
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == ["graph.txt", "manifest.json", "weights.safetensors"]
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["kept"]["conv1.weight"]["0"] == small.state_map.kept["conv1.weight"][0].tolist()
    again = graphopt.load(path)
    assert torch.equal(again(images), small(images))
    before, after = small.state_map, again.state_map
    assert before.shapes == after.shapes and before.kept.keys() == after.kept.keys()
    for name, dims in before.kept.items():
        assert dims.keys() == after.kept[name].keys()
        assert all(np.array_equal(indices, after.kept[name][dim]) for dim, indices in dims.items())
    graphopt.finetune(again, [(images, torch.arange(8))], F.cross_entropy)


def test_masked_models_are_saved_with_their_masks(tmp_path: Path) -> None:
    x = torch.randn(2, 6)
    pruned = graphopt.compile(nn.Linear(6, 4), (x,), target="fx", passes="prune-weights{sparsity=0.5}")
    pruned.save(tmp_path / "masked.gopt")
    again = graphopt.load(tmp_path / "masked.gopt")
    assert torch.equal(again.state_dict()["weight_mask"], pruned.state_dict()["weight_mask"])
    graphopt.finetune(again, [(x, torch.randn(2, 4))], F.mse_loss, epochs=3)
    assert torch.equal(again.finalize().state_dict()["weight"] == 0, pruned.state_dict()["weight_mask"] == 0)
    # A checkpoint from before masks were made leaves them as they are.
    old = {"weight": torch.ones(4, 6), "bias": torch.zeros(4)}
    pruned.load_state_dict(pruned.slice_state_dict(old))
    torch.testing.assert_close(pruned(x), F.linear(x, pruned.state_dict()["weight_mask"]))


def test_checkpoints_with_and_without_masks_serve_each_other() -> None:
    x, plain = torch.randn(2, 6), nn.Sequential(nn.Linear(6, 4))
    masked = nn.Sequential(nn.Linear(6, 4))
    prune.l1_unstructured(masked[0], "weight", 0.5)
    folded = graphopt.compile(masked, (x,), target="fx").finalize()
    product = masked[0].weight_orig * masked[0].weight_mask
    assert torch.equal(folded.slice_state_dict(masked.state_dict())["0.weight"], product)
    assert torch.equal(folded.slice_state_dict(plain.state_dict())["0.weight"], plain[0].weight)
    hooked = graphopt.compile(masked, (x,), target="fx")
    found = hooked.slice_state_dict(plain.state_dict())
    assert torch.equal(found["0.weight_orig"], plain[0].weight)
    assert torch.equal(found["0.weight_mask"], masked[0].weight_mask)


def test_wrong_checkpoints(lenet) -> None:
    model, small, _ = lenet
    state = model.state_dict()
    with pytest.raises(GraphOptError, match=r"'fc1.weight' has shape \[3, 3\]"):
        small.slice_state_dict({**state, "fc1.weight": torch.ones(3, 3)})
    with pytest.raises(GraphOptError, match=r"has no fc1.weight"):
        small.slice_state_dict({name: tensor for name, tensor in state.items() if name != "fc1.weight"})
    lenient = small.slice_state_dict({}, strict=False)
    assert all(torch.equal(lenient[name], tensor) for name, tensor in small.state_dict().items())
    assert StateMap.of(small.graph).slice_state_dict({}) == {}
