"""graphopt: a compiler that makes PyTorch models faster and smaller, and shows that the answer is still right.

>>> import torch, graphopt
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval()
>>> x = torch.randn(2, 4)
>>> fast = graphopt.compile(model, (x,), target="fx")
>>> torch.allclose(fast(x), model(x), atol=1e-6)
True
"""

from __future__ import annotations

import gc as _gc
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from graphopt.debugging import attribute_error, diff, explain

_collecting = _gc.isenabled()
_gc.disable()  # the modules below set off a collection that scans all of PyTorch and frees nothing: a third of the time
try:
    from graphopt.api import compile, load, trace
    from graphopt.compiled import CompiledModel
    from graphopt.errors import GraphOptError
    from graphopt.ir import Graph, Node, Value
    from graphopt.ops import parse
    from graphopt.ops.quantization import dequantize, fake_quantize, quantize
    from graphopt.passmanager import Pass, PassContext, PassManager, PassResult, RulePass, pass_, register_pass, rewrite
    from graphopt.pruning import prune
    from graphopt.quantization_search import quantize_search
    from graphopt.rewrite import Algebra, Contract, Rewriter, Rule
    from graphopt.targets import Target
    from graphopt.training import finetune
finally:
    if _collecting:
        _gc.enable()

__version__ = "0.1.0"

__all__ = [
    "Algebra",
    "CompiledModel",
    "Contract",
    "Graph",
    "GraphOptError",
    "Node",
    "Pass",
    "PassContext",
    "PassManager",
    "PassResult",
    "Rewriter",
    "Rule",
    "RulePass",
    "Target",
    "Value",
    "attribute_error",
    "compile",
    "dequantize",
    "diff",
    "explain",
    "fake_quantize",
    "finetune",
    "load",
    "parse",
    "pass_",
    "prune",
    "quantize",
    "quantize_search",
    "register_pass",
    "rewrite",
    "trace",
]


def __getattr__(name: str) -> _Any:
    """What few programs need, and takes all passes to import, is imported at its first use."""
    if name in ("attribute_error", "diff", "explain"):
        from graphopt import debugging

        return getattr(debugging, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
