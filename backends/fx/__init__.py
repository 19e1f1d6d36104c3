"""The FX backend: a graph becomes a readable, trainable `torch.fx.GraphModule`."""

from __future__ import annotations

from graphopt.backends.fx.emit import emit_fx

__all__ = ["emit_fx"]
