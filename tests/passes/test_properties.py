"""Each pass keeps its word on random graphs of the operators that it looks for, and is idempotent."""

from __future__ import annotations

import pytest

from graphopt.passes.canonicalize import Canonicalize
from graphopt.passes.common_subexpressions import CommonSubexpressions
from graphopt.passes.dead_code import DeadCode
from graphopt.passes.fold_batch_norm import FoldBatchNorm
from graphopt.passes.fold_constants import FoldConstants
from graphopt.passes.fold_masks import FoldMasks
from graphopt.passes.fold_pad import FoldPad
from graphopt.passes.fuse_attention import FuseAttention
from graphopt.passes.fuse_linear import FuseLinear
from graphopt.passes.merge_constants import MergeConstants
from graphopt.passes.raise_activations import RaiseActivations
from graphopt.passmanager import Pass
from graphopt.pipelines import default_pipeline
from graphopt.testing import check_pass

ARITHMETIC = (
    "relu neg abs relu6 hardtanh clone floor ceil round clamp clamp_min clamp_max sigmoid exp add.Tensor sub.Tensor "
    "mul.Tensor add.Scalar sub.Scalar mul.Scalar div.Scalar rsub.Scalar pow.Tensor_Scalar reciprocal sqrt logical_not "
    "eq.Tensor lt.Tensor ge.Scalar where.self maximum minimum to.dtype _to_copy call-again dropout"
)
SHAPES = (
    "relu neg reshape view permute transpose.int t swapaxes movedim.int unsqueeze squeeze.dim squeeze.dims "
    "expand expand_as view_as flatten.using_ints unflatten.int flip roll repeat slice.Tensor select.int narrow "
    "split.Tensor chunk split_with_sizes unbind.int cat stack add.Tensor mul.Tensor sum.dim_IntList "
    "mean.dim amax to.dtype call-again"
)
LAYERS = (
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d.input batch_norm linear add.Tensor mul.Tensor add.Scalar "
    "mul.Scalar div.Scalar sub.Tensor div.Tensor relu mm matmul addmm t permute reshape"
)
PADS = "constant_pad_nd pad conv1d conv2d conv2d.padding max_pool2d avg_pool2d relu clamp"
MASKS = "mul.Tensor zeros_like ones_like linear conv2d add.Tensor relu call-again"
ATTENTION = "matmul bmm transpose.int softmax.int mul.Scalar div.Scalar add.Tensor where.self"
ACTIVATIONS = "sigmoid mul.Tensor mul.Scalar neg exp hardsigmoid softplus tanh log maximum gt.Scalar call-again"
CONSTANTS = (
    "full zeros ones arange full_like zeros_like add.Tensor mul.Tensor expand transpose.int to.dtype call-again cat"
)

CASES: list[tuple[Pass, str]] = [
    (Canonicalize(), ARITHMETIC),
    (Canonicalize(), SHAPES),
    (FoldConstants(), CONSTANTS),
    (FoldBatchNorm(), LAYERS),
    (FoldMasks(), MASKS),
    (FuseLinear(), LAYERS),
    (FoldPad(), PADS),
    (RaiseActivations(), ACTIVATIONS),
    (FuseAttention(), ATTENTION),
    (CommonSubexpressions(), ARITHMETIC),
    (MergeConstants(), LAYERS),
    (DeadCode(), ARITHMETIC),
]


@pytest.mark.parametrize(("pass_", "operators"), CASES, ids=[f"{p.name}-{i}" for i, (p, _) in enumerate(CASES)])
def test_pass_on_its_own_operators(pass_: Pass, operators: str) -> None:
    check_pass(pass_, examples=25, idempotent=True, operators=operators.split(), max_nodes=12)


@pytest.mark.parametrize("trainable", [False, True])
def test_default_pipeline(trainable: bool) -> None:
    from graphopt.passmanager import PassContext

    check_pass(default_pipeline(trainable=trainable), examples=25, context=PassContext(trainable=trainable))
