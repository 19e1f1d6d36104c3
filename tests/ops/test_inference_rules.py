"""Inference rules against PyTorch's fake tensors, on random calls with static and symbolic sizes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.errors import TypeInferenceError
from graphopt.ir import Call, TensorType, Type, from_torch
from graphopt.ir.dims import evaluate
from graphopt.ops import torch_arguments
from graphopt.ops.fake import infer_by_fake
from graphopt.ops.inference import RULES, Mismatch, RuleInference
from tests.ops import samplers  # noqa: F401
from tests.ops.calls import SAMPLERS, at_sizes, calls, sized


def outcome(infer: object, call: Call) -> Sequence[Type] | None:
    """The result types, or None if the call is refused."""
    try:
        return tuple(infer(call))  # type: ignore[operator]
    except TypeInferenceError:
        return None


def rule_says(call: Call) -> Sequence[Type] | str:
    """What the rule alone says: types, "invalid" or "undecided"."""
    infer = call.op.infer
    assert isinstance(infer, RuleInference)
    try:
        result = infer.rule(*infer.arguments(call))
    except Mismatch:
        return "invalid"
    if result is None:
        return "undecided"
    return tuple(result) if isinstance(result, list | tuple) else (result,)  # type: ignore[arg-type]


def eager(call: Call) -> Sequence[Type] | None:
    """What PyTorch says on real tensors of zeros, or None if it refuses."""
    tensors = [None if t is None else torch.zeros(t.shape, dtype=t.dtype.torch) for t in call.operand_types]  # type: ignore[union-attr, arg-type]
    args, kwargs = torch_arguments(call.op, tensors, call.attributes, lambda e: evaluate(e, {}))
    try:
        result = call.op.evaluate(*args, **kwargs)  # type: ignore[misc]
    except (RuntimeError, IndexError, ValueError, NotImplementedError):
        return None
    results = result if isinstance(result, list | tuple) else (result,)
    return tuple(TensorType(from_torch(r.dtype), tuple(r.shape)) for r in results)


UNCHECKED = {"scaled_dot_product_attention", "lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input"}
"""Operators whose CPU kernel reads past the end of an operand instead of refusing it: a value shorter than its key, a
state of another batch or of fewer layers. Nothing is asked of PyTorch about a call of theirs that the rule refuses; it
may crash, with fake tensors, too."""


def test_every_rule_has_a_sampler() -> None:
    assert set(SAMPLERS) == set(RULES)
    assert len(RULES) >= 300


@pytest.mark.parametrize("name", sorted(RULES))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_rule_agrees_with_fake_tensors(name: str, data: st.DataObject) -> None:
    call = data.draw(calls(name))
    concrete = at_sizes(call)
    found = outcome(concrete.op.infer, concrete)
    expected = None
    if found is not None or name not in UNCHECKED:
        expected = outcome(infer_by_fake, concrete)
        if found != expected:  # a few fakes are laxer than the operator, or wrong: then the operator decides
            expected = eager(concrete)
    assert found == expected
    said = rule_says(call)
    if said == "invalid":
        assert expected is None
    elif said != "undecided" and expected is not None:
        assert tuple(map(sized, said)) == expected
