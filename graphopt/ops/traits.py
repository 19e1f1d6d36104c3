"""Traits of ATen operators that PyTorch's tags do not say."""

from __future__ import annotations

from graphopt.ir import Node, Trait

_COMMUTATIVE = """add mul maximum minimum eq ne logical_and logical_or logical_xor bitwise_and bitwise_or
bitwise_xor"""
_IDEMPOTENT = "relu relu6 abs floor ceil round trunc sign clamp clamp_min clamp_max hardtanh contiguous"
_INVOLUTION = "neg logical_not bitwise_not"
_VIEW = """view reshape _unsafe_view permute transpose t squeeze unsqueeze expand slice select split split_with_sizes
chunk unbind narrow flatten unflatten alias detach expand_as view_as diagonal movedim swapaxes contiguous clone"""
# PyTorch's tags miss these: their results are not a function of the operands.
_RANDOM = """empty empty_like empty_strided empty_permuted empty_quantized new_empty new_empty_strided
feature_dropout feature_alpha_dropout rrelu scaled_dot_product_attention binomial _sample_dirichlet
_triton_multi_head_attention"""
# These return something, but what they are for is not in it.
_EFFECT = """_functional_assert_async _functional_assert_scalar _functional_sym_constrain_range
_functional_sym_constrain_range_for_size _make_dep_token _test_warn_in_autograd"""


def _table() -> dict[str, frozenset[Trait]]:
    found: dict[str, set[Trait]] = {}
    for trait, names in (
        (Trait.COMMUTATIVE, _COMMUTATIVE),
        (Trait.IDEMPOTENT, _IDEMPOTENT),
        (Trait.INVOLUTION, _INVOLUTION),
        (Trait.VIEW, _VIEW),
        (Trait.RANDOM, _RANDOM),
        (Trait.EFFECT, _EFFECT),
    ):
        for name in names.split():
            found.setdefault(name, set()).add(trait)
    return {name: frozenset(traits) for name, traits in found.items()}


EXTRA_TRAITS = _table()

HOLDS_NUMBERS = frozenset({"aten.gelu", "aten.hardsigmoid", "aten.hardswish"})
"""Operators that hold numbers such as √2 and ⅙ exactly, which are rounded where the function is written out."""


def is_commutative(node: Node) -> bool:
    """True if the first two operands of this node may be swapped: `add` with `alpha != 1` may not."""
    return Trait.COMMUTATIVE in node.op.traits and node.attributes.get("alpha", 1) == 1
