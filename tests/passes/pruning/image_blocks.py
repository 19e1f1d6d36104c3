"""Blocks on feature maps [N, C, H, W]. Each says its output channels; `make(channels, number)` draws one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

Number = Callable[[int, int], int]
"""Draws an integer of a range, ends included."""

ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    F.relu, F.silu, torch.sigmoid, torch.tanh, F.gelu, F.hardswish, F.leaky_relu, F.softplus, torch.cos,
    lambda x: x * 0.5 - 0.25, lambda x: x.clamp(-1, 1), lambda x: x,
)  # fmt: skip


class StandardizedConv(nn.Conv2d):
    """Weight standardization, as BiT and NFNets have it: each filter has mean 0 and variance 1."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Plain(nn.Module):
    """Convolution of any kind, norm of any kind, activation of any kind."""

    def __init__(self, channels: int, number: Number) -> None:
        super().__init__()
        groups = (1, 1, 2, channels)[number(0, 3)] if channels % 2 == 0 else 1
        self.channels = channels if groups == channels else (4, 6, 8)[number(0, 2)]
        kind = nn.ConvTranspose2d if number(0, 5) == 0 else nn.Conv2d
        padding = number(0, 1)
        kernel = 3 if padding else (1, 2)[number(0, 1)]
        groups = 1 if kind is nn.ConvTranspose2d and groups == channels else groups
        self.conv = kind(channels, self.channels, kernel, padding=padding, bias=number(0, 1) == 1, groups=groups)
        if number(0, 5) == 0:
            self.conv = weight_norm(self.conv, dim=(0, 0, 2)[number(0, 2)])
        self.norm = self.draw_norm(self.channels, number)
        self.slopes = nn.PReLU(self.channels) if number(0, 5) == 0 else None
        self.activation = ACTIVATIONS[number(0, len(ACTIVATIONS) - 1)]

    @staticmethod
    def draw_norm(channels: int, number: Number) -> nn.Module:
        return (
            nn.Identity, nn.BatchNorm2d, nn.BatchNorm2d, lambda c: nn.BatchNorm2d(c, affine=False),
            lambda c: nn.GroupNorm(2, c), lambda c: nn.GroupNorm(1, c), lambda c: nn.InstanceNorm2d(c, affine=True),
            lambda c: nn.GroupNorm(2, c, affine=False),
        )[number(0, 7)](channels)  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return self.activation(x if self.slopes is None else self.slopes(x))


class Residual(nn.Module):
    """x + scale · conv(act(conv(x))), with a layer scale, the weights standardized or not."""

    def __init__(self, channels: int, number: Number) -> None:
        super().__init__()
        self.channels = channels
        kind = StandardizedConv if number(0, 3) == 0 else nn.Conv2d
        self.first, self.second = kind(channels, 6, 3, padding=1), kind(6, channels, 1)
        self.norm = Plain.draw_norm(6, number)
        self.scale = nn.Parameter(torch.ones(channels, 1, 1)) if number(0, 1) else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.norm(self.first(x))))
        return x + (y if self.scale is None else y * self.scale)


class Dense(nn.Module):
    """Concatenations: of a tensor with new ones, with itself, and of merged groups."""

    def __init__(self, channels: int, number: Number) -> None:
        super().__init__()
        self.kind = number(0, 2)
        self.grow = nn.Conv2d(channels, 4, 1)
        self.channels = (channels + 4, 2 * channels, 2 * channels + 4)[self.kind]

    def forward(self, x: Tensor) -> Tensor:
        parts = ([x, torch.relu(self.grow(x))], [x, x], [x, self.grow(x), x])[self.kind]
        return torch.cat(parts, 1)


class Gate(nn.Module):
    """Halves of a convolution, one of which gates the other; or a gate from the mean of each channel."""

    def __init__(self, channels: int, number: Number) -> None:
        super().__init__()
        self.squeeze = number(0, 1) == 1
        self.channels = channels if self.squeeze else 6
        if self.squeeze:
            self.down, self.up = nn.Linear(channels, 4), nn.Linear(4, channels)
        else:
            self.conv = nn.Conv2d(channels, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.squeeze:
            return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))[:, :, None, None]
        a, b = self.conv(x).chunk(2, dim=1)
        return a * torch.sigmoid(b)


class Shuffle(nn.Module):
    """Channels interleaved, cut, turned, or spread over pixels."""

    def __init__(self, channels: int, number: Number) -> None:
        super().__init__()
        self.kind = number(0, 4)
        self.channels = channels - 1 if self.kind == 1 else channels
        self.widen = nn.Conv2d(channels, channels * 4, 1) if self.kind == 3 else None

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if self.kind == 0 and c % 2 == 0:
            return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        if self.kind == 1:
            return x[:, 1:]
        if self.kind == 2:
            return x.flip(1) if c % 2 else x.roll(1, 1)
        return F.pixel_shuffle(self.widen(x), 2) if self.widen is not None else x


class Resize(nn.Module):
    """Pooling, padding and interpolation."""

    def __init__(self, channels: int, number: Number) -> None:
        super().__init__()
        self.channels, self.kind = channels, number(0, 5)

    def forward(self, x: Tensor) -> Tensor:
        return (
            lambda: F.max_pool2d(x, 2, 1, 1),
            lambda: F.avg_pool2d(x, 3, 1, 1),
            lambda: F.pad(x, (1, 0, 0, 1)),
            lambda: F.interpolate(x, scale_factor=2),
            lambda: F.adaptive_avg_pool2d(x, 3),
            lambda: F.pad(x, (1, 1, 1, 1), mode="reflect"),
        )[self.kind]()


BLOCKS: tuple[type[nn.Module], ...] = (Plain, Plain, Plain, Residual, Dense, Gate, Shuffle, Resize)


class ImageNet(nn.Module):
    """A convolution, some blocks, and a head: one or two outputs."""

    def __init__(self, number: Number) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        channels, blocks = 6, []
        for _ in range(number(1, 4)):
            block = BLOCKS[number(0, len(BLOCKS) - 1)](channels, number)
            channels = block.channels  # type: ignore[assignment]
            blocks.append(block)
        self.blocks = nn.ModuleList(blocks)
        self.pool = number(0, 3)
        self.hidden = nn.Linear(channels * (4 if self.pool == 1 else 1), 8)
        self.head = nn.Linear(8, 3)
        self.tap = nn.Conv2d(6, 2, 1) if number(0, 2) == 0 else None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = first = self.stem(x)
        for block in self.blocks:
            x = block(x)
        if self.pool == 0:
            x = x.mean((2, 3))
        elif self.pool == 1:
            x = F.adaptive_avg_pool2d(x, 2).flatten(1)
        elif self.pool == 2:
            x = x.amax((2, 3))
        else:
            x = F.adaptive_avg_pool2d(x, 1).view(x.shape[0], -1)
        outputs = (self.head(F.relu(self.hidden(x))),)
        return outputs if self.tap is None else (*outputs, self.tap(first))


def example() -> Tensor:
    """A batch of images."""
    return torch.randn(2, 3, 6, 6, dtype=torch.float64)
