"""Every failure is one CaptureError: the reason, the user's line, the remedy, and the cause chained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from graphopt.errors import CaptureError
from graphopt.frontends import capture


class Opaque:
    pass


def branch(x: torch.Tensor) -> torch.Tensor:
    if x.sum() > 0:
        return x
    return x + 1


def loop(x: torch.Tensor) -> torch.Tensor:
    while x.sum() < 10:
        x = x * 2
    return x


def length(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(int(x.sum())) if int(x.sum()) > 3 else x


def numpy(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(x.numpy() + 1)


def mismatch(x: torch.Tensor) -> torch.Tensor:
    return x @ torch.ones(7, 7)


def threshold(x: torch.Tensor) -> torch.Tensor:
    return x + 1 if x.shape[0] > 2 else x


CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str, str]] = {
    "branch": (branch, (torch.ones(3),), {}, "control flow depends on values", "torch.cond"),
    "loop": (loop, (torch.ones(3),), {}, "control flow depends on values", "while_loop"),
    "length": (length, (torch.ones(3),), {}, "control flow depends on values", "torch._check"),
    "numpy": (numpy, (torch.ones(3),), {}, "leaves PyTorch for NumPy", "torch operations"),
    "mismatch": (mismatch, (torch.ones(3),), {}, "must have same reduction dim", "in eager mode"),
    "output": (lambda x: Opaque(), (torch.ones(3),), {}, "returns a .*Opaque", "register_pytree_node"),
    "input": (lambda x: x, (Opaque(),), {}, "an input is a .*Opaque", "register_dataclass"),
    "missing": (lambda x, y: x, (torch.ones(3),), {}, "missing a required argument: 'y'", "as a tuple"),
    "too many": (lambda x: x, (torch.ones(3),) * 2, {}, "too many positional", "as a tuple"),
    "fixed": (
        lambda x: x + torch.ones(3),
        (torch.ones(3),),
        {"dynamic_shapes": "batch"},
        "fixed to 3 by the model",
        "make that dim static",
    ),
    "range": (
        threshold,
        (torch.ones(5),),
        {"dynamic_shapes": {"x": {0: Dim("n")}}},
        r"needs 3 <= x.shape\[0\]",
        "Dim that range",
    ),
    "multiple": (
        lambda x: x.view(4, -1),
        (torch.ones(8),),
        {"dynamic_shapes": {"x": {0: Dim("n")}}},
        r"x.shape\[0\] % 4",
        r"4 \* Dim",
    ),
    "equal": (
        lambda x, y: x + y,
        (torch.ones(8), torch.ones(8)),
        {"dynamic_shapes": {"x": {0: Dim("n")}, "y": {0: Dim("m")}}},
        "to be equal",
        "same Dim",
    ),
    "names": (
        lambda x, y: x + y,
        (torch.ones(8), torch.ones(8)),
        {"dynamic_shapes": {"x": {0: Dim("n")}}},
        r"which are \['x', 'y'\]",
        "None: static",
    ),
    "word": (lambda x: x, (torch.ones(8),), {"dynamic_shapes": "bach"}, "'bach' is not known", '"batch"'),
    "batch of scalars": (
        lambda x: x,
        (torch.tensor(1.0),),
        {"dynamic_shapes": "batch"},
        "needs an input with a first dim",
        "no input",
    ),
    "sparse": (lambda x: x.to_sparse(), (torch.ones(3),), {}, "sparse_coo tensor", "to_dense"),
    "bare tensor": (lambda x: x, torch.ones(3), {}, "args has type Tensor", r"args=\(x,\)"),  # type: ignore[dict-item]
    "parameter data": (lambda x: setattr(x, "data", x * 2), (torch.ones(3),), {}, "assigns to .data", "copy_"),
    "expanded": (
        lambda x: x[:1].expand(3, 3)[0].add_(1),
        (torch.ones(3, 3),),
        {},
        "one element several times",
        "clone it",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_reason_and_remedy(name: str) -> None:
    function, args, options, reason, remedy = CASES[name]
    with pytest.raises(CaptureError, match=reason) as raised:
        capture(function, args, **options)
    assert raised.match(remedy)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("function", [branch, loop, length, numpy, mismatch])
def test_the_users_line_is_named_and_the_cause_chained(function: Callable[..., Any]) -> None:
    with pytest.raises(CaptureError, match=f"{__file__}:\\d+, in {function.__name__}") as raised:
        capture(function, (torch.ones(3),))
    assert raised.value.__cause__ is not None


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    for function in (branch, mismatch, numpy):
        with pytest.raises(CaptureError):
            capture(function, (torch.ones(3),))
    out, err = capfd.readouterr()
    assert out == err == ""


def test_cache_outputs() -> None:
    class DynamicCache:
        pass

    class Decoder(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x, DynamicCache()

    with pytest.raises(CaptureError, match="use_cache=False"):
        capture(Decoder(), (torch.ones(2),))


@pytest.mark.parametrize("model", [3, None, object()])
def test_what_is_no_model(model: Any) -> None:
    with pytest.raises(CaptureError, match=r"cannot capture an object of type \w+; pass an nn\.Module"):
        capture(model, ())


def test_torchscript_is_refused() -> None:
    with pytest.raises(CaptureError, match="TorchScript"):
        capture(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), (torch.ones(1, 2),))


def test_failures_inside_the_import_name_the_node() -> None:
    with pytest.raises(CaptureError, match=r"to_sparse.*test_errors.py:\d+"):
        capture(CASES["sparse"][0], (torch.ones(3),))
