"""Higher-order operators: regions of no-grad and autocast are inlined, control flow becomes regions of the IR."""

from __future__ import annotations

from typing import Any

from torch import fx

from graphopt.frontends.torch_export.importer import HIGHER_ORDER, Importer
from graphopt.frontends.torch_export.normal_forms import stop_gradient
from graphopt.frontends.torch_export.storage import TensorRef


def _set_grad_enabled(importer: Importer, node: fx.Node) -> Any:
    enabled, module, *arguments = map(importer.lookup, node.args)
    results = importer.run(module, arguments)
    if enabled:
        return results
    return [
        stop_gradient(importer, r) if isinstance(r, TensorRef) and r.differentiable else r for r in results
    ]


HIGHER_ORDER["wrap_with_set_grad_enabled"] = _set_grad_enabled
