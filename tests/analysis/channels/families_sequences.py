"""Attention, gates, embeddings and recurrence for the tests of the analysis."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.analysis.channels.family import Layers, family


@family(2, 2, 5, 6)
class GatedMlp(Layers):
    """silu(gate) · up, and a layer scale."""

    def __init__(self) -> None:
        super().__init__(i=nn.Linear(6, 4), g=nn.Linear(4, 5), u=nn.Linear(4, 5), d=nn.Linear(5, 4), o=nn.Linear(4, 3))
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x)
        return self.o(x + self.scale * self.d(F.silu(self.g(x)) * self.u(x)))


@family(1, 2, 6)
class GluHalves(Layers):
    """The halves of one linear layer gate each other."""

    def __init__(self) -> None:
        super().__init__(a=nn.Linear(6, 8), b=nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.glu(self.a(x)))


@family(3, 2, 5, 6)
class SeparateAttention(Layers):
    """Separate projections: heads, the width of queries and keys, the width of values."""

    def __init__(self) -> None:
        super().__init__(q=nn.Linear(6, 12), k=nn.Linear(6, 12), v=nn.Linear(6, 12), o=nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).view(2, 5, 3, 4).transpose(1, 2) for p in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@family(3, 2, 5, 6)
class PlainAttention(Layers):
    """Attention spelled out, with heads merged into the batch and a mask."""

    def __init__(self) -> None:
        super().__init__(q=nn.Linear(6, 12), k=nn.Linear(6, 12), v=nn.Linear(6, 12), o=nn.Linear(12, 3))
        self.register_buffer("mask", torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(1) > 0, -9.0))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).view(2, 5, 3, 4).transpose(1, 2).reshape(6, 5, 4) for p in (self.q, self.k, self.v))
        p = ((q @ k.transpose(1, 2)) * 0.5 + self.mask).softmax(-1)
        return self.o((p @ v).view(2, 3, 5, 4).transpose(1, 2).reshape(2, 5, 12))


@family(3, 2, 5, 6)
class ChunkedAttention(Layers):
    """Queries, keys and values by chunk: three parts of one projection."""

    def __init__(self) -> None:
        super().__init__(qkv=nn.Linear(6, 36), o=nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p.view(2, 5, 3, 4).transpose(1, 2) for p in self.qkv(x).chunk(3, -1))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 5, 12))


@family(2, 2, 5, 6)
class UnboundAttention(Layers):
    """Queries, keys and values by view(3, H, D) and unbind: they share rows and columns."""

    def __init__(self) -> None:
        super().__init__(qkv=nn.Linear(6, 36), o=nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(2, 5, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 5, 12))


@family(3, 2, 5, 6)
class GroupedQueries(Layers):
    """Grouped-query attention by expand and reshape: query heads go with the heads that they share."""

    def __init__(self) -> None:
        super().__init__(q=nn.Linear(6, 16), k=nn.Linear(6, 8), v=nn.Linear(6, 8), o=nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).view(2, 5, 4, 4).transpose(1, 2)
        k, v = (
            p(x).view(2, 5, 2, 4).transpose(1, 2)[:, :, None].expand(2, 2, 2, 5, 4).reshape(2, 4, 5, 4)
            for p in (self.k, self.v)
        )
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 5, 16))


@family(3, 2, 5, 6)
class EnabledGroups(Layers):
    """Grouped-query attention by the operator's own flag."""

    def __init__(self) -> None:
        super().__init__(q=nn.Linear(6, 16), k=nn.Linear(6, 8), v=nn.Linear(6, 8), o=nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).view(2, 5, 4, 4).transpose(1, 2)
        k, v = (p(x).view(2, 5, 2, 4).transpose(1, 2) for p in (self.k, self.v))
        return self.o(
            F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).reshape(2, 5, 16)
        )  # fmt: skip


@family(3, 2, 5, 6)
class Rotary(Layers):
    """Rotary positions couple the halves of a head."""

    def __init__(self) -> None:
        super().__init__(q=nn.Linear(6, 12), k=nn.Linear(6, 12), v=nn.Linear(6, 12), o=nn.Linear(12, 3))
        angles = torch.outer(torch.arange(5.0), 0.3 ** torch.arange(2.0)).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def rotate(self, x: Tensor) -> Tensor:
        return x * self.cos + torch.cat([-x[..., 2:], x[..., :2]], -1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).view(2, 5, 3, 4).transpose(1, 2) for p in (self.q, self.k, self.v))
        p = (self.rotate(q) @ self.rotate(k).transpose(-1, -2)).softmax(-1)
        return self.o((p @ v).transpose(1, 2).reshape(2, 5, 12))


@family(3, 2, 4, 4, 6)
class Windows(Layers):
    """Attention in 2x2 windows with a table of relative positions for each head."""

    def __init__(self) -> None:
        super().__init__(q=nn.Linear(6, 8), k=nn.Linear(6, 8), v=nn.Linear(6, 8), o=nn.Linear(8, 3))
        self.table = nn.Parameter(torch.randn(9, 2))
        self.register_buffer("index", torch.randint(0, 9, (16,)))

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(2, 2, 2, 2, 2, 6).permute(0, 1, 3, 2, 4, 5).reshape(8, 4, 6)
        q, k, v = (p(x).view(8, 4, 2, 4).transpose(1, 2) for p in (self.q, self.k, self.v))
        bias = self.table[self.index].view(4, 4, 2).permute(2, 0, 1)[None]
        p = (q @ k.transpose(-1, -2) + bias).softmax(-1)
        x = self.o((p @ v).transpose(1, 2).reshape(8, 4, 8))
        return x.view(2, 2, 2, 2, 2, 3).permute(0, 1, 3, 2, 4, 5).reshape(2, 4, 4, 3)


@family(1, 2, 5, ids=True)
class TiedEmbedding(Layers):
    """An embedding that is also the head: its width is coupled through, its rows stay."""

    def __init__(self) -> None:
        super().__init__(e=nn.Embedding(9, 6), n=nn.LayerNorm(6), h=nn.Linear(6, 9, bias=False))
        self.h.weight = self.e.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.h(self.n(self.e(x)))


@family(2, 2, 5, 6)
class Modulated(Layers):
    """Adaptive layer norm as in DiT: shift, scale and gate are chunks of one projection.

    A layer norm without weights leaves what varies in removed slots, and 1 + scale is 1 there: what reads it is zero.
    """

    def __init__(self) -> None:
        super().__init__(
            i=nn.Linear(6, 4), m=nn.Linear(6, 12), n=nn.LayerNorm(4, elementwise_affine=False),
            u=nn.Linear(4, 5), d=nn.Linear(5, 4), o=nn.Linear(4, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        shift, scale, gate = self.m(F.silu(x.mean(1, keepdim=True))).chunk(3, -1)
        x = self.i(x)
        return self.o(x + gate * self.d(F.gelu(self.u(self.n(x) * (1 + scale) + shift))))


@family(1, 2, 5, 6)
class LongMemory(Layers):
    """Two layers in both directions share one hidden width."""

    def __init__(self) -> None:
        super().__init__(r=nn.LSTM(6, 4, num_layers=2, bidirectional=True, batch_first=True), o=nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.r(x)[0])


@family(2, 5, 2, 6)
class GatedMemory(Layers):
    """A GRU whose last state is used."""

    def __init__(self) -> None:
        super().__init__(i=nn.Linear(6, 5), r=nn.GRU(5, 4), o=nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.r(self.i(x))[1][0])


@family(1, 2, 3, 6, 6)
class Outputs(Layers):
    """Several outputs from one trunk, one of them a mean over its channels."""

    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1), c=nn.Conv2d(4, 3, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.a(x).relu()
        return self.b(x), self.c(x), x.sum(1)


@family(1, 2, 5, 6)
class Shared(Layers):
    """One layer that is called twice."""

    def __init__(self) -> None:
        super().__init__(i=nn.Linear(6, 4), s=nn.Linear(4, 4), o=nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.tanh(self.s(torch.tanh(self.s(self.i(x))))))


@family(2, 2, 6, 8)
class Mixer(Layers):
    """Layers on a transposed dim beside layers on the channels."""

    def __init__(self) -> None:
        super().__init__(
            t=nn.Linear(6, 5, bias=False), b=nn.Linear(5, 3, bias=False), c=nn.Linear(8, 4), d=nn.Linear(4, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.b(self.t(self.c(x).transpose(1, 2)).relu()).transpose(1, 2))


@family(2, 2, 5, 6)
class Einsummed(Layers):
    """Products by letters."""

    def __init__(self) -> None:
        super().__init__(a=nn.Linear(6, 8), b=nn.Linear(6, 8), o=nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).view(2, 5, 2, 4), self.b(x).view(2, 5, 2, 4)
        return self.o(torch.einsum("bihd,bjhd->bij", a, b))


@family(1, 2, 5, 6)
class Positions(Layers):
    """A class token and learned positions are summands of the stream; a mask is expanded to its shape."""

    def __init__(self) -> None:
        super().__init__(i=nn.Linear(6, 4), o=nn.Linear(4, 3))
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.position = nn.Parameter(torch.randn(1, 6, 4))

    def forward(self, x: Tensor) -> Tensor:
        weights = (x[..., :1] > 0).float()
        x = torch.cat([self.token.expand(2, -1, -1), self.i(x)], 1) + self.position
        x = x[:, 1:] * weights.expand(x[:, 1:].shape)
        return self.o(x.sum(1) / weights.sum(1).clamp(min=1.0))
