"""Topologies that peers are known to break on: each a small module and its input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SelfConcat(nn.Module):
    """A tensor beside itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return self.head(F.relu(self.b(torch.cat([x, x], 1))).mean((2, 3)))


class MergedConcats(nn.Module):
    """Concatenations that a sum ties together."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Conv2d(3, 6, 1) for _ in range(4)])
        self.mix, self.head = nn.Conv2d(12, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d = (F.relu(part(x)) for part in self.parts)
        return self.head(F.relu(self.mix(torch.cat([a, b], 1) + torch.cat([c, d], 1))).mean((2, 3)))


class ViewIntoLinear(nn.Module):
    """A feature map viewed as a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.hidden, self.head = nn.Linear(6 * 16, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(F.relu(self.b(F.relu(self.a(x)))), 4)
        return self.head(F.relu(self.hidden(x.view(x.shape[0], -1))))


class GroupedQueries(nn.Module):
    """Eight heads of queries on two of keys and values, with RMS norms."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 32), nn.RMSNorm(32)
        self.q, self.k, self.v = nn.Linear(32, 32), nn.Linear(32, 8), nn.Linear(32, 8)
        self.out, self.head = nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        n, length, _ = x.shape
        q, k, v = (p(y).view(n, length, -1, 4).transpose(1, 2) for p in (self.q, self.k, self.v))
        k, v = k.repeat_interleave(4, 1), v.repeat_interleave(4, 1)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.head(x + self.out(y.transpose(1, 2).reshape(n, length, 32)))


class WindowedAttention(nn.Module):
    """Attention within windows of a map, with a bias of relative positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 16, 2, stride=2), nn.LayerNorm(16)
        self.qkv, self.out, self.head = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 5)
        self.bias = nn.Parameter(torch.randn(4, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n, c, h, w = x.shape
        x = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
        q, k, v = self.qkv(self.norm(x)).view(-1, 4, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(-2, -1) * 0.5 + self.bias, -1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(-1, 4, 16))
        return self.head(x.reshape(n, -1, 16).mean(1))


class Modulation(nn.Module):
    """A diffusion transformer's block: shift, scale and gate come from a condition."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 16), nn.LayerNorm(16, elementwise_affine=False)
        self.modulation = nn.Linear(6, 48)
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(F.silu(x.mean(1))).chunk(3, -1)
        x = self.embed(x)
        y = self.norm(x) * (1 + scale[:, None]) + shift[:, None]
        return self.head(x + gate[:, None] * self.down(F.gelu(self.up(y))))


class ChannelShuffle(nn.Module):
    """Grouped convolutions with channels interleaved between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 12, 1), nn.Linear(12, 5)
        self.a, self.b = nn.Conv2d(12, 12, 3, padding=1, groups=3), nn.Conv2d(12, 12, 1, groups=3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(F.relu(self.stem(x))))
        n, c, h, w = x.shape
        x = x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(F.relu(self.b(x)).mean((2, 3)))


class Recurrent(nn.Module):
    """Two LSTM layers in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 12, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


class Encoder(nn.Module):
    """PyTorch's own encoder layer, its projections fused."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 16), nn.Linear(16, 5)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)))


def image() -> Tensor:
    """A batch of images."""
    return torch.randn(2, 3, 8, 8)


def sequence() -> Tensor:
    """A batch of sequences."""
    return torch.randn(2, 5, 6)


TOPOLOGIES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "concat of a tensor with itself": (SelfConcat, image),
    "merged concats": (MergedConcats, image),
    "view into linear": (ViewIntoLinear, image),
    "grouped-query attention": (GroupedQueries, sequence),
    "windowed attention": (WindowedAttention, image),
    "DiT-like modulation": (Modulation, sequence),
    "channel shuffle": (ChannelShuffle, image),
    "bidirectional LSTM": (Recurrent, sequence),
    "nn.TransformerEncoderLayer": (Encoder, sequence),
}
