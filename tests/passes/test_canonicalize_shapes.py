"""The rules of views, permutations, pieces and operators that do nothing, one by one."""

from __future__ import annotations

import itertools

import pytest
import torch

from graphopt.ops import parse
from graphopt.passes.canonicalize import Canonicalize
from graphopt.passes.rules.permutes import compose, permutation
from graphopt.passmanager import PassContext

V = "input %x: f32[N, 4, 6]\ninput %y: f32[N, 4, 6]\n"
IMAGE = "input %x: f32[N, 3, 6, 6]\n"
DOT = "input %x: f32[N, 3, 1, 1]\n"

REWRITES = [
    ("noop-view", V, "%r = aten.reshape(%x) {shape=(N, 4, 6)}", "%x"),
    ("noop-view", V, "%r = aten.expand(%x) {size=(-1, 4, 6)}", "%x"),
    ("noop-view", "input %x: f32[N, 4]\n", "%r = aten.flatten.using_ints(%x) {start_dim=1}", "%x"),
    ("noop-view", V, "%r = aten.slice.Tensor(%x) {dim=1, start=0, end=9223372036854775807}", "%x"),
    ("noop-view", V, "%r = aten.squeeze.dim(%x) {dim=1}", "%x"),
    ("noop-view", V, "%r = aten.repeat(%x) {repeats=(1, 1, 1)}", "%x"),
    ("drop-copy", V, "%r = aten.clone(%x)", "%x"),
    ("drop-copy", V, "%r = aten.contiguous(%x)", "%x"),
    ("drop-copy", V, "%r = aten.alias(%x)", "%x"),
    ("drop-detach", V, "%r = aten.detach(%x)", "%x"),
    ("dropout-in-evaluation", V, "%r = aten.dropout(%x) {p=0.5, train=false}", "%x"),
    ("dropout-in-evaluation", V, '%r = aten.feature_dropout(%x) {p=0.5, train="follow"}', "%x"),
    ("noop-pad", V, "%r = aten.constant_pad_nd(%x) {pad=(0, 0)}", "%x"),
    ("noop-pad", V, '%r = aten.pad(%x) {pad=(0, 0), mode="reflect"}', "%x"),
    ("noop-roll", V, "%r = aten.roll(%x) {shifts=0, dims=1}", "%x"),
    ("max-pool-of-one", IMAGE, "%r = aten.max_pool2d(%x) {kernel_size=1}", "%x"),
    ("average-pool-of-one", IMAGE, "%r = aten.avg_pool2d(%x) {kernel_size=1, stride=1}", "%x"),
    ("average-pool-of-one", DOT, "%r = aten.avg_pool2d(%x) {kernel_size=3, ceil_mode=true}", "%x"),
    ("adaptive-pool-to-same-size", IMAGE, "%r = aten.adaptive_avg_pool2d(%x) {output_size=6}", "%x"),
    ("reduce-unit-dim", "input %x: f32[N, 1, 6]\n", "%r = aten.mean.dim(%x) {dim=(1,), keepdim=true}", "%x"),
    (
        "reduce-unit-dim",
        "input %x: f32[N, 1, 6]\n",
        "%r = aten.sum.dim_IntList(%x) {dim=(-2,)}",
        "%r = aten.reshape(%x) {shape=(N, 6)}",
    ),
    ("floor-twice", V, "%a = aten.floor(%x)\n%r = aten.floor(%a)", "%r = aten.floor(%x)"),
    ("sign-twice", V, "%a = aten.sign(%x)\n%r = aten.sign(%a)", "%r = aten.sign(%x)"),
    ("floor-of-ceil", V, "%a = aten.ceil(%x)\n%r = aten.floor(%a)", "%r = aten.ceil(%x)"),
    ("round-of-trunc", V, "%a = aten.trunc(%x)\n%r = aten.round(%a)", "%r = aten.trunc(%x)"),
    ("view-is-reshape", V, "%r = aten.view(%x) {size=(N, 24)}", "%r = aten.reshape(%x) {shape=(N, 24)}"),
    ("view-is-reshape", V, "%r = aten._unsafe_view(%x) {size=(N, 24)}", "%r = aten.reshape(%x) {shape=(N, 24)}"),
    (
        "merge-reshapes",
        V,
        "%a = aten.reshape(%x) {shape=(N, 24)}\n%r = aten.unflatten.int(%a) {dim=1, sizes=(8, 3)}",
        "%r = aten.reshape(%x) {shape=(N, 8, 3)}",
    ),
    ("merge-reshapes", V, "%a = aten.unsqueeze(%x) {dim=1}\n%r = aten.squeeze.dim(%a) {dim=1}", "%x"),
    ("merge-reshapes", V, "%a = aten.flatten.using_ints(%x)\n%r = aten.view(%a) {size=(N, 4, 6)}", "%x"),
    (
        "reshape-through-unary",
        V,
        "%a = aten.flatten.using_ints(%x)\n%b = aten.relu(%a)\n%c = aten.mul.Scalar(%b) {other=3.0}\n"
        "%r = aten.reshape(%c) {shape=(N, 4, 6)}",
        "%b = aten.relu(%x)\n%r = aten.mul.Scalar(%b) {other=3.0}",
    ),
    (
        "reshape-through-function",
        V,
        "%a = aten.unsqueeze(%x) {dim=0}\n%b = aten.exp(%a)\n%r = aten.reshape(%b) {shape=(N, 24)}",
        "%a = aten.reshape(%x) {shape=(N, 24)}\n%r = aten.exp(%a)",
    ),
    (
        "merge-expands",
        "input %x: f32[1, 6]\n",
        "%a = aten.expand(%x) {size=(4, 6)}\n%r = aten.expand(%a) {size=(2, 4, 6)}",
        "%r = aten.expand(%x) {size=(2, 4, 6)}",
    ),
    (
        "drop-expand",
        V + "input %m: f32[6]\n",
        "%a = aten.expand(%m) {size=(N, 4, 6)}\n%r = aten.add.Tensor(%x, %a)",
        "%r = aten.add.Tensor(%x, %m)",
    ),
    (
        "drop-expand",
        V + "input %m: bool[N, 1, 1]\n",
        "%a = aten.expand(%m) {size=(N, 4, 6)}\n%r = aten.where.self(%a, %x, %y)",
        "%r = aten.where.self(%m, %x, %y)",
    ),
    ("normal-permute", V, "%r = aten.permute(%x) {dims=(0, 1, -1)}", "%x"),
    ("normal-permute", V, "%r = aten.permute(%x) {dims=(0, 2, 1)}", "%r = aten.transpose.int(%x) {dim0=1, dim1=2}"),
    (
        "normal-permute",
        V,
        "%r = aten.transpose.int(%x) {dim0=-1, dim1=1}",
        "%r = aten.transpose.int(%x) {dim0=1, dim1=2}",
    ),
    ("normal-permute", "input %x: f32[3, 4]\n", "%r = aten.t(%x)", "%r = aten.transpose.int(%x) {dim0=0, dim1=1}"),
    ("normal-permute", "input %x: f32[3]\n", "%r = aten.t(%x)", "%x"),
    (
        "normal-permute",
        V,
        "%r = aten.movedim.int(%x) {source=0, destination=2}",
        "%r = aten.permute(%x) {dims=(1, 2, 0)}",
    ),
    (
        "merge-permutes",
        V,
        "%a = aten.permute(%x) {dims=(1, 2, 0)}\n%r = aten.permute(%a) {dims=(1, 2, 0)}",
        "%r = aten.permute(%x) {dims=(2, 0, 1)}",
    ),
    (
        "merge-permutes",
        V,
        "%a = aten.transpose.int(%x) {dim0=0, dim1=1}\n%r = aten.transpose.int(%a) {dim0=0, dim1=1}",
        "%x",
    ),
    (
        "permute-merged-dims",
        "input %x: f32[N, 4, 7, 8]\n",
        "%a = aten.reshape(%x) {shape=(4*N, 7, 8)}\n%b = aten.transpose.int(%a) {dim0=1, dim1=2}\n"
        "%r = aten.reshape(%b) {shape=(N, 4, 8, 7)}",
        "%r = aten.transpose.int(%x) {dim0=2, dim1=3}",
    ),
    (
        "permute-merged-dims",
        "input %x: f32[N, 14, 8]\n",
        "%a = aten.reshape(%x) {shape=(N, 7, 2, 1, 8)}\n%b = aten.permute(%a) {dims=(0, 2, 3, 1, 4)}\n"
        "%r = aten.reshape(%b) {shape=(N, 2, 7, 8)}",
        "%d = aten.reshape(%x) {shape=(N, 7, 2, 8)}\n%r = aten.transpose.int(%d) {dim0=1, dim1=2}",
    ),
    (
        "permute-merged-dims",
        "input %x: f32[N, 2, 2, 7, 8]\n",
        "%a = aten.reshape(%x) {shape=(4*N, 7, 8)}\n%b = aten.transpose.int(%a) {dim0=1, dim1=2}\n"
        "%r = aten.reshape(%b) {shape=(N, 4, 8, 7)}",
        "%d = aten.reshape(%x) {shape=(N, 4, 7, 8)}\n%r = aten.transpose.int(%d) {dim0=2, dim1=3}",
    ),
    (
        "permute-unit-dims",
        "input %x: f32[N, 1, 6]\n",
        "%r = aten.transpose.int(%x) {dim0=1, dim1=2}",
        "%r = aten.reshape(%x) {shape=(N, 6, 1)}",
    ),
    (
        "permute-through-unary",
        V,
        "%a = aten.transpose.int(%x) {dim0=1, dim1=2}\n%b = aten.relu(%a)\n%c = aten._to_copy(%b) {dtype=f64}\n"
        "%r = aten.transpose.int(%c) {dim0=1, dim1=2}",
        "%b = aten.relu(%x)\n%r = aten._to_copy(%b) {dtype=f64}",
    ),
    (
        "permute-through-function",
        V,
        "%a = aten.permute(%x) {dims=(1, 2, 0)}\n%b = aten.gelu(%a)\n%r = aten.transpose.int(%b) {dim0=1, dim1=2}",
        "%a = aten.transpose.int(%x) {dim0=0, dim1=1}\n%r = aten.gelu(%a)",
    ),
    (
        "sink-permutes",
        V,
        "%a = aten.transpose.int(%x) {dim0=1, dim1=2}\n%b = aten.transpose.int(%y) {dim0=1, dim1=2}\n"
        "%r = aten.sub.Tensor(%a, %b)",
        "%a = aten.sub.Tensor(%x, %y)\n%r = aten.transpose.int(%a) {dim0=1, dim1=2}",
    ),
    ("cat-of-one", V, "%r = aten.cat(%x) {dim=1}", "%x"),
    ("stack-of-one", V, "%r = aten.stack(%x) {dim=1}", "%r = aten.unsqueeze(%x) {dim=1}"),
    (
        "cat-drop-empty",
        V + "input %e: f32[N, 0, 6]\n",
        "%r = aten.cat(%x, %e, %y) {dim=-2}",
        "%r = aten.cat(%x, %y) {dim=-2}",
    ),
    (
        "nested-cat",
        V,
        "%a = aten.cat(%x, %y) {dim=1}\n%r = aten.cat(%y, %a) {dim=-2}",
        "%r = aten.cat(%y, %x, %y) {dim=-2}",
    ),
    ("split-of-one", V, "%r = aten.split.Tensor(%x) {split_size=4, dim=1}", "%x"),
    ("cat-of-split", V, "%a, %b = aten.split.Tensor(%x) {split_size=3, dim=2}\n%r = aten.cat(%a, %b) {dim=-1}", "%x"),
    ("cat-of-split", V, "%a, %b, %c, %d = aten.unbind.int(%x) {dim=1}\n%r = aten.stack(%a, %b, %c, %d) {dim=1}", "%x"),
    (
        "split-of-cat",
        V,
        "%a = aten.cat(%x, %y) {dim=1}\n%b, %c = aten.chunk(%a) {chunks=2, dim=1}\n%r = aten.sub.Tensor(%b, %c)",
        "%r = aten.sub.Tensor(%x, %y)",
    ),
    (
        "merge-slices",
        V,
        "%a = aten.slice.Tensor(%x) {dim=2, start=1, step=2}\n%r = aten.slice.Tensor(%a) {dim=-1, start=1, end=3}",
        "%r = aten.slice.Tensor(%x) {dim=-1, start=3, end=7, step=2}",
    ),
    (
        "slice-of-cat",
        V,
        "%a = aten.cat(%x, %y) {dim=1}\n%r = aten.slice.Tensor(%a) {dim=1, start=5, end=9223372036854775807}",
        "%r = aten.slice.Tensor(%y) {dim=1, start=1, end=4}",
    ),
    ("select-of-stack", V, "%a = aten.stack(%y, %x) {dim=1}\n%r = aten.select.int(%a) {dim=1, index=-1}", "%x"),
    (
        "select-of-cat",
        V,
        "%a = aten.cat(%x, %y) {dim=1}\n%r = aten.select.int(%a) {dim=-2, index=5}",
        "%r = aten.select.int(%y) {dim=-2, index=1}",
    ),
    (
        "select-of-cat",
        V + "input %z: f32[N, M, 6]\n",
        "%a = aten.cat(%z, %y) {dim=1}\n%r = aten.select.int(%a) {dim=1, index=-2}",
        "%r = aten.select.int(%y) {dim=1, index=-2}",
    ),
    ("select-of-unsqueeze", V, "%a = aten.unsqueeze(%x) {dim=-1}\n%r = aten.select.int(%a) {dim=3, index=0}", "%x"),
    (
        "sink-expand",
        "input %x: f32[1, 6]\n",
        "%a = aten.expand(%x) {size=(4, 6)}\n%r = aten.add.Scalar(%a) {other=2.5}",
        "%a = aten.add.Scalar(%x) {other=2.5}\n%r = aten.expand(%a) {size=(4, 6)}",
    ),
    (
        "sink-expand-of-function",
        "input %x: f32[1, 6]\n",
        "%a = aten.expand(%x) {size=(4, 6)}\n%r = aten.exp(%a)",
        "%a = aten.exp(%x)\n%r = aten.expand(%a) {size=(4, 6)}",
    ),
    (
        "embedding-of-expand",
        "input %x: i64[6]\nparameter %w: f32[9, 3]\ninput %y: f32[N]\n",
        "%m = aten.abs(%x)\n%a = aten.expand(%m) {size=(N, 6)}\n%r = aten.embedding(%w, %a)",
        "%m = aten.abs(%x)\n%a = aten.embedding(%w, %m)\n%r = aten.expand(%a) {size=(N, 6, 3)}",
    ),
    (
        "index-that-counts",
        "input %x: f32[N, 3]\nconstant %j: i64[3] = (0, 1, 2)\n",
        "%a = aten.arange() {end=N, dtype=i64}\n%i = aten.reshape(%a) {shape=(N, 1, 1, 1)}\n"
        "%r = aten.index.Tensor(%x, %i, %j)",
        "%r = aten.reshape(%x) {shape=(N, 1, 1, 3)}",
    ),
    (
        "index-that-counts",
        "input %x: f32[2, 1, 3]\nconstant %i: i64[2] = (0, 1)\nconstant %o: i64[1] = (0,)\n"
        "constant %j: i64[3, 1] = ((0,), (1,), (2,))\n",
        "%r = aten.index.Tensor(%x, %i, %o, %j)",
        "%a = aten.permute(%x) {dims=(1, 2, 0)}\n%r = aten.reshape(%a) {shape=(3, 2)}",
    ),
    ("usual-name", V, "%r = aten.clip(%x) {min=0.5}", "%r = aten.clamp(%x) {min=0.5}"),
    ("usual-name", V, "%r = aten.concatenate(%x, %y) {dim=1}", "%r = aten.cat(%x, %y) {dim=1}"),
    ("usual-name", V, "%r = aten.special_expit(%x)", "%r = aten.sigmoid(%x)"),
    ("flip-flip", V, "%a = aten.flip(%x) {dims=(1, 2)}\n%r = aten.flip(%a) {dims=(-1, 1)}", "%x"),
]


@pytest.mark.parametrize(("rule", "inputs", "before", "after"), REWRITES)
def test_rewrite(check, rule: str, inputs: str, before: str, after: str) -> None:
    ending = f"return {after}" if after.startswith("%x") else f"{after}\nreturn %r"
    check(Canonicalize(), f"{inputs}{before}\nreturn %r", inputs + ending, applied={rule: 1})


UNTOUCHED = [
    ("bits reinterpreted", "input %x: f32[4]\n",
     "%a = aten.view.dtype(%x) {dtype=i32}\n%r = aten.reshape(%a) {shape=(2, 2)}"),
    ("pad that crops and extends", V, "%r = aten.constant_pad_nd(%x) {pad=(1, -1)}"),
    ("index that skips",
     "input %x: f32[3, 3]\nconstant %j: i64[3] = (0, 2, 1)\nconstant %i: i64[3, 1] = ((0,), (1,), (2,))\n",
     "%r = aten.index.Tensor(%x, %i, %j)"),
    ("indices along one axis", "input %x: f32[3, 3]\nconstant %j: i64[3] = (0, 1, 2)\n",
     "%r = aten.index.Tensor(%x, %j, %j)"),
    ("average that counts padding", DOT, "%r = aten.avg_pool2d(%x) {kernel_size=3, padding=1}"),
    ("average of two", "input %x: f32[N, 3, 2, 1]\n", "%r = aten.avg_pool2d(%x) {kernel_size=2, ceil_mode=true}"),
    ("pooling that skips", IMAGE, "%r = aten.max_pool2d(%x) {kernel_size=1, stride=2}"),
    ("mean over a symbol", "input %x: f32[N, 4]\n", "%r = aten.mean.dim(%x) {dim=(0,)}"),
    ("stack of what has no operands", "input %x: f32[1]\n", "%a = aten.arange() {end=3}\n%r = aten.stack(%a, %a)"),
    ("pieces out of order", V, "%a, %b = aten.split.Tensor(%x) {split_size=3, dim=2}\n%r = aten.cat(%b, %a) {dim=2}"),
    ("cat along another dim", V, "%a, %b = aten.split.Tensor(%x) {split_size=3, dim=2}\n%r = aten.cat(%a, %b) {dim=1}"),
    ("slice across pieces", V, "%a = aten.cat(%x, %y) {dim=1}\n%r = aten.slice.Tensor(%a) {dim=1, start=3, end=6}"),
    ("slice from the end", V,
     "%a = aten.slice.Tensor(%x) {dim=1, start=-3}\n%r = aten.slice.Tensor(%a) {dim=1, start=1}"),
    ("softmax is no elementwise function", V,
     "%a = aten.transpose.int(%x) {dim0=1, dim1=2}\n%b = aten.softmax.int(%a) {dim=1}\n"
     "%r = aten.transpose.int(%b) {dim0=1, dim1=2}"),
    ("expansion that gives the shape", "input %x: f32[1, 6]\ninput %y: f32[6]\n",
     "%a = aten.expand(%x) {size=(4, 6)}\n%r = aten.add.Tensor(%a, %y)"),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "before"), [u[1:] for u in UNTOUCHED], ids=[u[0] for u in UNTOUCHED])
def test_untouched(check, inputs: str, before: str) -> None:
    check(Canonicalize(), f"{inputs}{before}\nreturn %r")


def test_intermediate_with_other_uses_stays(check) -> None:
    text = """
        %a = aten.transpose.int(%x) {dim0=1, dim1=2}
        %b = aten.relu(%a)
        %r = aten.permute(%b) {dims=(1, 2, 0)}
        return %r, %a, %b"""
    check(Canonicalize(), V + text)


def test_trained_graph_keeps_detach_and_dropout(check) -> None:
    check(
        Canonicalize(),
        V + '%a = aten.detach(%x)\n%r = aten.dropout(%a) {p=0.5, train="follow"}\nreturn %r',
        context=PassContext(trainable=True),
        declined="dropout in training",
    )


def test_permutations_against_torch() -> None:
    """The algebra of permutations is PyTorch's, for every permutation of three axes and every pair."""
    source = torch.arange(24).reshape(2, 3, 4)
    for axes in itertools.permutations(range(3)):
        graph = parse(f"input %x: f32[2, 3, 4]\n%r = aten.permute(%x) {{dims={axes}}}\nreturn %r")
        assert permutation(graph.nodes[0]) == axes
        for outer in itertools.permutations(range(3)):
            assert torch.equal(source.permute(axes).permute(outer), source.permute(compose(axes, outer)))
    for moved, placed in itertools.product(itertools.permutations(range(3), 2), repeat=2):
        text = (
            f"input %x: f32[2, 3, 4]\n%r = aten.movedim.intlist(%x) {{source={moved}, destination={placed}}}\nreturn %r"
        )
        axes = permutation(parse(text).nodes[0])
        assert torch.equal(source.movedim(moved, placed), source.permute(axes))


@pytest.mark.parametrize("inner", ["floor", "ceil", "trunc", "round"])
@pytest.mark.parametrize("outer", ["floor", "ceil", "trunc", "round"])
def test_rounding_what_is_whole(check, outer: str, inner: str) -> None:
    rule = f"{outer}-twice" if outer == inner and outer != "round" else f"{outer}-of-{inner}"
    before = f"{V}%a = aten.{inner}(%x)\n%r = aten.{outer}(%a)\nreturn %r"
    check(Canonicalize(), before, f"{V}%r = aten.{inner}(%x)\nreturn %r", applied={rule: 1})


def test_every_rule_is_tested() -> None:
    from pathlib import Path

    from graphopt.passes.canonicalize import RULES

    texts = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    roundings = {"floor", "ceil", "trunc", "round", "abs"}
    untested = {r.label for r in RULES if f'"{r.label}"' not in texts and r.label.split("-")[0] not in roundings}
    assert not untested
