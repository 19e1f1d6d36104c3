"""Which integer and bool types the operators' kernels take in ONNX Runtime on CPU, and what to compute in instead.

The standard allows more than the kernels implement. A lowering writes the operator as the standard has it, and the
emitter puts casts around it where no kernel takes the type; every type is widened without loss.
"""

from __future__ import annotations

from graphopt.ir import DType

_NAMES = {"B": "bool", "b": "i8", "h": "i16", "i": "i32", "l": "i64", "c": "u8", "H": "u16", "I": "u32", "L": "u64"}

# Operators by the types that their kernels take (letters of _NAMES); operators not listed take them all.
_TABLE = """
bhilcHIL: Add Sub Mul Div Abs Greater GreaterOrEqual Less LessOrEqual BitwiseAnd BitwiseOr BitwiseXor BitwiseNot
bhil: Neg
bhilcHIL: Mod Sign
bilcIL: Clip Max Min
bi: Relu
il: Pow CumSum ReduceSum ReduceMean ReduceProd ReduceL1 ReduceL2 ReduceSumSquare Einsum
hil: Range
ilIL: MatMul
ilbc: ArgMax ArgMin
Bilbc: ReduceMax ReduceMin
Bilc: NonZero
bilcI: Where
BbilcIL: Pad
Bil: Trilu
bhilc: TopK
bic: Resize
bc: MaxPool DepthToSpace SpaceToDepth
bl: Unique
ilL: EyeLike
cHIL: BitShift
BbhilcHIL: Expand
bhilcHIL: Tile
"""

_WIDER = {
    DType.BOOL: (DType.U8, DType.I32, DType.I64),
    DType.I8: (DType.I16, DType.I32, DType.I64),
    DType.U8: (DType.I16, DType.U16, DType.I32, DType.I64),
    DType.I16: (DType.I32, DType.I64),
    DType.U16: (DType.I32, DType.U32, DType.I64),
    DType.I32: (DType.I64,),
    DType.U32: (DType.I64, DType.U64),
}
_SMALL_FLOATS = (DType.BF16, DType.F16)

# Operators that move elements or convert them, and so take any type.
MOVES = frozenset(
    "Cast Reshape Transpose Identity If Loop Concat Shape Slice Split Squeeze Unsqueeze Gather GatherElements GatherND "
    "ScatterElements ScatterND Flatten ConstantOfShape Compress IsNaN IsInf".split()
)


def _parse(text: str) -> dict[str, frozenset[DType]]:
    table = {}
    for line in text.strip().splitlines():
        letters, _, names = line.partition(":")
        dtypes = frozenset(DType(_NAMES[letter]) for letter in letters)
        table.update(dict.fromkeys(names.split(), dtypes))
    return table


INTEGER_KERNELS = _parse(_TABLE)


def compute_dtype(op_type: str, dtype: DType, widen_floats: bool = False) -> DType:
    """The type in which to run an operator on elements of `dtype`.

    widen_floats: run half-precision types in f32, for runtimes without kernels for them.

    >>> compute_dtype("ReduceSum", DType.I8), compute_dtype("Add", DType.I8)
    (i32, i8)
    """
    if dtype in _SMALL_FLOATS:
        return DType.F32 if widen_floats and op_type not in MOVES else dtype
    accepted = INTEGER_KERNELS.get(op_type)
    if accepted is None or dtype in accepted:
        return dtype
    return next((wider for wider in _WIDER.get(dtype, ()) if wider in accepted), dtype)
