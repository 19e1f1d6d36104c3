"""Blocks on sequences [N, L, C]: attention of all kinds, gated layers, norms, recurrent layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.passes.pruning.image_blocks import Number

WIDTH, HEADS, LENGTH, TOKENS = 8, 4, 4, 11


class ManualRMSNorm(nn.Module):
    """As transformers write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def draw_norm(number: Number) -> nn.Module:
    return (
        lambda: nn.LayerNorm(WIDTH),
        lambda: nn.RMSNorm(WIDTH, eps=1e-5),
        lambda: ManualRMSNorm(WIDTH),
        nn.Identity,
        lambda: nn.LayerNorm(WIDTH, elementwise_affine=False),
    )[number(0, 4)]()


class Attention(nn.Module):
    """Separate or fused projections, grouped queries, rotary positions, windows; fused or written-out attention."""

    def __init__(self, number: Number) -> None:
        super().__init__()
        self.norm = draw_norm(number)
        self.fused = number(0, 3)
        self.kv_heads = 2 if self.fused == 3 else HEADS
        self.rotary, self.written_out, self.windows = (number(0, 2) == 0 for _ in range(3))
        depth = 4
        kv = self.kv_heads * depth
        if self.fused in (1, 2):
            self.qkv = nn.Linear(WIDTH, 3 * HEADS * depth)
        else:
            self.q = nn.Linear(WIDTH, HEADS * depth)
            self.k, self.v = nn.Linear(WIDTH, kv), nn.Linear(WIDTH, kv)
        self.out = nn.Linear(HEADS * depth, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        residual, shape = x, x.shape
        if self.windows:
            x = x.reshape(shape[0] * 2, shape[1] // 2, shape[2])
        q, k, v = self.projected(self.norm(x))
        if self.rotary:
            q, k = rotated(q), rotated(k)
        if self.kv_heads != HEADS:
            k, v = (t.repeat_interleave(HEADS // self.kv_heads, 1) for t in (k, v))
        if self.written_out:
            y = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        y = self.out(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))
        return residual + y.reshape(shape)

    def projected(self, x: Tensor) -> tuple[Tensor, ...]:
        n, length, _ = x.shape
        if self.fused == 1:
            return tuple(self.qkv(x).view(n, length, 3, HEADS, 4).permute(2, 0, 3, 1, 4).unbind(0))
        if self.fused == 2:
            parts = self.qkv(x).chunk(3, -1)
            return tuple(p.view(n, length, HEADS, 4).transpose(1, 2) for p in parts)
        heads = ((self.q, HEADS), (self.k, self.kv_heads), (self.v, self.kv_heads))
        return tuple(layer(x).view(n, length, h, 4).transpose(1, 2) for layer, h in heads)


def rotated(x: Tensor) -> Tensor:
    """Rotary positions: pairs (j, j + D/2) turn by an angle that grows with the position."""
    positions = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * torch.tensor([1.0, 0.1], dtype=x.dtype)
    angle = torch.cat([positions, positions], -1)
    first, second = x.chunk(2, -1)
    return x * angle.cos() + torch.cat([-second, first], -1) * angle.sin()


class MLP(nn.Module):
    """Two layers; or a gated one; or one modulated by the mean of the sequence, as diffusion transformers are."""

    def __init__(self, number: Number) -> None:
        super().__init__()
        self.norm = draw_norm(number)
        self.kind = number(0, 2)
        self.up, self.down = nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)
        self.gate = nn.Linear(WIDTH, 12) if self.kind == 1 else None
        self.modulation = nn.Linear(WIDTH, 24) if self.kind == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        hidden = self.up(y)
        if self.gate is not None:
            hidden = F.silu(self.gate(y)) * hidden
        elif self.modulation is not None:
            scale, shift = self.modulation(F.silu(x.mean(1))).chunk(2, -1)
            hidden = F.gelu(hidden) * (1 + scale[:, None]) + shift[:, None]
        else:
            hidden = F.gelu(hidden)
        return x + self.down(hidden)


class Recurrent(nn.Module):
    """LSTM or GRU, in one or both directions, of one or two layers."""

    def __init__(self, number: Number) -> None:
        super().__init__()
        both = number(0, 1) == 1
        kind = (nn.LSTM, nn.GRU)[number(0, 1)]
        self.layer = kind(WIDTH, 5, num_layers=number(1, 2), batch_first=True, bidirectional=both)
        self.back = nn.Linear(10 if both else 5, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(self.layer(x)[0])


BLOCKS: tuple[type[nn.Module], ...] = (Attention, Attention, Attention, MLP, MLP, Recurrent)


class SequenceNet(nn.Module):
    """Embeddings with positions, some blocks, a norm, and a head that may be tied to the embedding."""

    def __init__(self, number: Number) -> None:
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, WIDTH)
        self.positions = nn.Parameter(torch.zeros(1, LENGTH, WIDTH)) if number(0, 1) else None
        self.blocks = nn.ModuleList([BLOCKS[number(0, len(BLOCKS) - 1)](number) for _ in range(number(1, 3))])
        self.norm = draw_norm(number)
        self.tied = number(0, 1) == 1
        self.head = nn.Linear(WIDTH, TOKENS, bias=not self.tied)
        if self.tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def example() -> Tensor:
    """A batch of token ids."""
    return torch.randint(0, TOKENS, (2, LENGTH))
