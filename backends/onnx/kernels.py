"""Which integer and bool types the operators' kernels take in ONNX Runtime on CPU, and what to compute in instead.

The standard allows more than the kernels implement. A lowering writes the operator as the standard has it, and the
emitter puts casts around it where no kernel takes the type; every type is widened without loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.ir import DType

if TYPE_CHECKING:
    from graphopt.backends.onnx.records import Body

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
    [
        "Cast",
        "Reshape",
        "Transpose",
        "Identity",
        "If",
        "Loop",
        "Concat",
        "Shape",
        "Slice",
        "Split",
        "Squeeze",
        "Unsqueeze",
        "Gather",
        "GatherElements",
        "GatherND",
        "ScatterElements",
        "ScatterND",
        "Flatten",
        "ConstantOfShape",
        "Compress",
        "IsNaN",
        "IsInf",
    ]
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


# Operators whose kernels take no f64.
_NO_F64 = frozenset(
    [
        "Acos",
        "Acosh",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "AveragePool",
        "Celu",
        "Col2Im",
        "Conv",
        "ConvTranspose",
        "Cosh",
        "Elu",
        "Erf",
        "Gelu",
        "GlobalAveragePool",
        "HardSigmoid",
        "InstanceNormalization",
        "LeakyRelu",
        "LpPool",
        "PRelu",
        "Resize",
        "RNN",
        "Selu",
        "Sinh",
        "Softplus",
        "Softsign",
        "Tan",
        "ThresholdedRelu",
    ]
)
_NO_COMPLEX = "complex tensors have no kernels in ONNX Runtime; split them into real and imaginary parts"


def without_kernel(body: Body) -> str | None:
    """Return why ONNX Runtime's CPU kernels cannot run the operations of a finished body, or None."""
    for operation in body.operations:
        dtypes = {t.dtype for t in (*operation.inputs, *operation.outputs) if t is not None}
        if any(dtype.is_complex for dtype in dtypes):
            return _NO_COMPLEX
        first = next((t.dtype for t in operation.inputs if t is not None), None)
        if first is DType.F64 and operation.op_type in _NO_F64 and not operation.domain:
            where = "" if operation.origin is None else f" (from {operation.origin.location})"
            return f"ONNX Runtime has no f64 kernel for {operation.op_type}{where}; convert the model to f32"
        accepted = INTEGER_KERNELS.get(operation.op_type)
        key = operation.inputs[1 if operation.op_type == "Where" else 0] if operation.inputs else None
        if accepted is not None and key is not None and not key.dtype.is_floating and key.dtype not in accepted:
            return f"ONNX Runtime has no {key.dtype.value} kernel for {operation.op_type}; convert to another type"
        for inner in operation.bodies():
            reason = without_kernel(inner)
            if reason is not None:
                return reason
    return None
