"""Pipelines by name: `default`, `canonical` and `none`.

The default pipeline is lossless: every pass in it is bitwise, value-exact or reassociating. Its order:

1. `fold-masks`, before a mask of ones is taken for a product with 1; masks stay where the result is to be trained. Then
   `canonicalize`, since it is what removes most nodes, and later passes look for its normal forms.
2. `fold-constants`, so that weights that are computed (transposed, reshaped, cast) are stored tensors.
3. `raise-activations`, `raise-softmax` and `raise-normalization`, while functions that are written out are whole: the
   folds below take numbers out of them.
4. `fuse-linear`, `fold-batch-norm` and `fold-pad`, which need stored tensors and named layers. Batch norms stay where
   the result is to be trained.
5. `fuse-attention`, before its parts are shared or renamed.
6. `canonicalize` and `fold-constants` again, for what the folds left over.
7. `legalize` for the target, then `common-subexpressions`, `merge-constants` and `dead-code` to clean up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from graphopt.passes.canonicalize import Canonicalize
from graphopt.passes.common_subexpressions import CommonSubexpressions
from graphopt.passes.dead_code import DeadCode
from graphopt.passes.fold_batch_norm import FoldBatchNorm
from graphopt.passes.fold_constants import FoldConstants
from graphopt.passes.fold_masks import FoldMasks
from graphopt.passes.fold_pad import FoldPad
from graphopt.passes.fuse_attention import FuseAttention
from graphopt.passes.fuse_linear import FuseLinear
from graphopt.passes.legalize import Legalize
from graphopt.passes.merge_constants import MergeConstants
from graphopt.passes.raise_activations import RaiseActivations
from graphopt.passes.raise_normalization import RaiseNormalization
from graphopt.passes.raise_softmax import RaiseSoftmax
from graphopt.passmanager import Pass, Pipeline, as_pipeline
from graphopt.passmanager.pipeline import PassLike

_NAMED = re.compile(r"(?<![\w.=-])(default|canonical)(?![\w.{=-])")

NAMES = ("default", "canonical", "none")
"""The names that `resolve_passes` knows."""


def default_pipeline(target: str = "cpu", trainable: bool = False) -> list[Pass]:
    """Return the passes that `compile` runs unless it is told otherwise.

    target: the name of the target. trainable: leaves batch norms as they are.

    >>> [p.name for p in default_pipeline(trainable=True)][:3]
    ['canonicalize', 'fold-constants', 'raise-activations']
    """
    masks: list[Pass] = [] if trainable else [FoldMasks()]
    norms: list[Pass] = [] if trainable else [FoldBatchNorm()]
    return [
        *masks,
        Canonicalize(),
        FoldConstants(),
        RaiseActivations(),
        RaiseSoftmax(),
        RaiseNormalization(),
        FuseLinear(),
        *norms,
        FoldPad(),
        FuseAttention(),
        Canonicalize(),
        FoldConstants(),
        Legalize(target=target),
        CommonSubexpressions(),
        MergeConstants(),
        DeadCode(),
    ]


def canonical_pipeline() -> list[Pass]:
    """Return the passes that bring a graph into normal form and change no weight."""
    return [Canonicalize(), CommonSubexpressions(), DeadCode()]


def resolve_passes(passes: PassLike, target: str, trainable: bool) -> Pipeline:
    """Turn a name, pipeline text, a pass, or a sequence of passes into a pipeline.

    In text, `default` and `canonical` stand for their passes: `default,my-pass`.

    Raises:
        GraphOptError: malformed text, or an unknown pass; the message underlines the token.
    """
    if passes == "default":
        return as_pipeline(default_pipeline(target, trainable))
    if passes == "canonical":
        return as_pipeline(canonical_pipeline())
    if passes == "none":
        return as_pipeline([])
    if isinstance(passes, str):
        return as_pipeline(_expanded(passes, target, trainable))
    if isinstance(passes, Sequence):
        return as_pipeline([_expanded(p, target, trainable) if isinstance(p, str) else p for p in passes])
    return as_pipeline(passes)


def _expanded(text: str, target: str, trainable: bool) -> str:
    """Put passes in the place of the names of pipelines."""
    named = {"default": lambda: default_pipeline(target, trainable), "canonical": canonical_pipeline}
    return _NAMED.sub(lambda found: str(as_pipeline(named[found[0]]())), text)
