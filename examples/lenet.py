"""LeNet, start to finish: train, compile for ONNX Runtime, check, save, load, and train on as an FX module.

Uses the 1,797 handwritten digits that scikit-learn ships, so nothing is downloaded.
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


def digits() -> tuple[Tensor, Tensor]:
    """The images, scaled to 0..1, and their labels."""
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(data.target)


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Plain training with Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
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


def main() -> None:
    torch.manual_seed(0)
    images, labels = digits()
    (train_x, test_x), (train_y, test_y) = images.split([1500, 297]), labels.split([1500, 297])
    model = LeNet()
    train(model, train_x, train_y, epochs=5)
    before = accuracy(model, test_x, test_y)

    fast = graphopt.compile(model, (test_x[:8],), target="onnxruntime", dynamic_shapes="batch")
    print(fast.report)
    assert accuracy(fast, test_x, test_y) == before, "the compiled model must label every image alike"

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lenet.gopt"
        fast.save(path)
        again = graphopt.load(path)
        fast.to_onnx(Path(folder) / "lenet.onnx")
    torch.testing.assert_close(again(test_x), fast(test_x))

    tunable = graphopt.compile(model, (test_x[:8],), target="fx", dynamic_shapes="batch")
    train(tunable, train_x, train_y, epochs=2)
    print(f"accuracy: {before:.3f} trained, {accuracy(tunable, test_x, test_y):.3f} after training the FX module on")


if __name__ == "__main__":
    main()
