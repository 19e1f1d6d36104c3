"""LeNet, start to finish: train, compile for ONNX Runtime, check, save, load, and train on as an FX module.

Uses the 1,797 handwritten digits that scikit-learn ships, so nothing is downloaded. On the shell:

    graphopt compile examples/lenet.py:build -o lenet.onnx --dynamic batch
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import graphopt


class LeNet(nn.Module):
    """Two convolutions with batch norm, two linear layers, for 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(32)
        self.fc1 = nn.Linear(32 * 2 * 2, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images scaled to 0..1 with their labels: 1,500 to train on, 297 to test with."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target)
    return (images[:1500], labels[:1500]), (images[1500:], labels[1500:])


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, rate: float = 2e-3) -> None:
    """Plain training with Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    model.eval()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images that the model labels right."""
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()


def build() -> tuple[LeNet, tuple[Tensor]]:
    """A trained LeNet and example inputs, as the command line takes them."""
    torch.manual_seed(0)
    training, (images, _) = digits()
    model = LeNet()
    train(model, *training, epochs=5)
    return model, (images[:8],)


def main() -> None:
    training, held_out = digits()
    model, inputs = build()
    before = accuracy(model, *held_out)

    # Compile. "batch" leaves the first dim free, so the result takes any number of images.
    fast = graphopt.compile(model, inputs, target="onnxruntime", dynamic_shapes="batch")
    print(fast.report)
    assert accuracy(fast, *held_out) == before, "the compiled model must label every image alike"

    # Save and load: no pickle, no passes, no measuring again.
    with tempfile.TemporaryDirectory() as folder:
        fast.save(Path(folder) / "lenet.gopt")
        fast.to_onnx(Path(folder) / "lenet.onnx")
        again = graphopt.load(Path(folder) / "lenet.gopt")
    images, _ = held_out
    torch.testing.assert_close(again(images), fast(images))

    # The FX target gives a module that trains; the original stays as it is.
    tunable = graphopt.compile(model, inputs, target="fx", dynamic_shapes="batch")
    train(tunable, *training, epochs=3, rate=5e-4)
    after = accuracy(tunable, *held_out)
    assert accuracy(model, *held_out) == before and after > 0.9
    print(f"\naccuracy: {before:.3f} of the model, {after:.3f} after training the FX module on")


if __name__ == "__main__":
    main()
