"""Recurrent and attention networks written out, and a recommender and a graph network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RecurrentClassifier(nn.Module):
    """Embedding, a bidirectional two-layer LSTM or GRU, a head; ids `[batch, length]` -> `[batch, 4]`."""

    def __init__(self, cell: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.embed = nn.Embedding(60, 16)
        self.rnn = cell(16, 20, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(40, 4)

    def forward(self, ids: Tensor) -> Tensor:
        states, _ = self.rnn(self.embed(ids))
        return self.head(states.mean(1))


class StatefulLSTM(nn.Module):
    """One direction, time first, explicit initial state in, output and final state out."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 12)
        self.head = nn.Linear(12, 8)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        states, state = self.rnn(x, state)
        return self.head(states), state


class EncoderStack(nn.Module):
    """torch.nn.TransformerEncoder with a padding mask, features `[batch, length, 32]`."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, activation="gelu", norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.encoder(x, src_key_padding_mask=padding)


class Block(nn.Module):
    """Pre-norm attention and MLP of a vision transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def attention(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """ViT with a class token, `[batch, 3, size, size]` -> `[batch, classes]`."""

    def __init__(
        self, width: int, heads: int, depth: int = 12, patch: int = 16, size: int = 224, classes: int = 1000
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.position = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class Recommender(nn.Module):
    """DLRM: embeddings of categories, an MLP on numbers, pairwise dot products."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(rows, 8) for rows in (20, 30, 40))
        self.bottom = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(8 + 6, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())
        self.register_buffer("pairs", torch.tril_indices(4, 4, -1))

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        dense = self.bottom(numbers)
        rows = torch.stack([dense, *(table(categories[:, i]) for i, table in enumerate(self.tables))], dim=1)
        products = torch.bmm(rows, rows.transpose(1, 2))
        return self.top(torch.cat([dense, products[:, self.pairs[0], self.pairs[1]]], dim=1)).squeeze(-1)


class GraphNet(nn.Module):
    """Message passing by gather and scatter; node features `[nodes, 6]`, edges `[2, count]`."""

    def __init__(self) -> None:
        super().__init__()
        self.message = nn.Linear(12, 10)
        self.update = nn.Linear(16, 6)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        source, target = edges[0], edges[1]
        message = F.softplus(self.message(torch.cat([nodes[source], nodes[target]], dim=1)))
        total = torch.zeros(nodes.shape[0], 10, dtype=nodes.dtype).index_add(0, target, message)
        return nodes + self.update(torch.cat([nodes, total], dim=1))


class Ranker(nn.Module):
    """Sort, top-k, gather, cumulative sum, einsum, where: scores `[batch, items]` from features."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6) / 3)
        self.score = nn.Linear(6, 1)

    def forward(self, items: Tensor) -> tuple[Tensor, Tensor]:
        mixed = torch.einsum("bnd,de,bme->bnm", items, self.weight, items)
        scores = self.score(items).squeeze(-1) + mixed.softmax(-1).amax(-1)
        best, order = scores.topk(3, dim=1)
        chosen = torch.gather(items, 1, order.unsqueeze(-1).expand(-1, -1, items.shape[-1]))
        ranked = torch.where(best > best.mean(1, keepdim=True), best, best.new_zeros(()))
        return chosen.cumsum(1), ranked
