"""Tensors of ONNX files as PyTorch tensors. External data is mapped, not read, and never from outside the folder."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graphopt.errors import CaptureError
from graphopt.ir import DType
from graphopt.ops.onnx_dtypes import FROM_ONNX_CODE
from graphopt.ops.quantization import is_packed, packed_size, unpack
from graphopt.ops.quantization.packing import code_values

if TYPE_CHECKING:
    import onnx


class Damaged(CaptureError):
    """A tensor is not what the file says of it, so nothing that uses it can be read."""


def dtype_of(code: int, what: str) -> DType:
    """Return the element type of an ONNX data type code.

    Raises:
        CaptureError: a type that the IR does not know.
    """
    try:
        return FROM_ONNX_CODE[code]
    except KeyError:
        raise CaptureError(f"{what} has ONNX element type {code}, which is not supported") from None


class Folder:
    """The folder of a model: where its external data may lie. Each file is mapped once, and what lies at one place is
    one tensor: exporters write tied weights so.

    tensors: by place and type.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.root = Path(os.path.realpath(path))
        self._mapped: dict[Path, np.ndarray] = {}
        self.tensors: dict[tuple[Any, ...], torch.Tensor] = {}

    def mapped(self, location: str, what: str) -> np.ndarray:
        """Return the bytes of a file: pages are read as they are used, and copied if written to.

        Raises:
            CaptureError: the file is missing, or lies outside of the folder.
        """
        try:
            path = Path(os.path.realpath(self.root / location))
            is_file = path.is_file()
        except (OSError, ValueError) as error:
            raise Damaged(f"{what}: external data cannot be at {location[:200]!r}: {error.args[-1]}") from error
        if path not in self._mapped:
            if not location or not path.is_relative_to(self.root):
                raise CaptureError(
                    f"{what}: external data {location!r} lies outside the model's folder, so it is not read"
                )
            if not is_file:
                raise CaptureError(f"{what}: external data {location!r} is missing from {self.root.name}/")
            empty = not path.stat().st_size
            self._mapped[path] = np.empty(0, np.uint8) if empty else np.memmap(path, dtype=np.uint8, mode="c")
        return self._mapped[path]

    def release(self) -> None:
        """Give back the memory that mapped pages take; they are read again when they are used. What was written to
        tensors is lost."""
        for array in self._mapped.values():
            if isinstance(array, np.memmap):
                array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def to_torch(proto: onnx.TensorProto, folder: Folder | None) -> torch.Tensor:
    """Return the tensor that a `TensorProto` describes.

    folder: of the model; external data must lie in it. None allows no external data.

    Raises:
        Damaged: sizes that don't fit the data, a file that is too short.
        CaptureError: a file that is missing or outside of the folder; strings.
    """
    from onnx import TensorProto, numpy_helper

    what = f"tensor {proto.name!r}"
    dtype = dtype_of(proto.data_type, what)
    shape = tuple(proto.dims)
    if any(d < 0 for d in shape):
        raise Damaged(f"{what} has shape {list(shape)}; a stored tensor has no negative size")
    if dtype is DType.STRING:
        raise CaptureError(f"{what} holds strings, which PyTorch has no tensors of")
    if proto.data_location == TensorProto.EXTERNAL:
        return _external(proto, dtype, shape, folder)
    if is_packed(dtype):
        return _packed(proto, dtype, shape, what)
    count = int(np.prod(shape, dtype=np.float64))
    if proto.HasField("raw_data"):
        return _from_bytes(np.frombuffer(proto.raw_data, dtype=np.uint8), dtype, shape, what)
    stored = max(
        len(getattr(proto, f)) for f in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
    )
    if stored != count * (2 if dtype.is_complex else 1):
        raise Damaged(f"{what} says that it has shape {list(shape)}, but holds {stored} elements")
    try:
        array = numpy_helper.to_array(proto)
    except (ValueError, TypeError) as error:  # the elements are in the field of another type
        raise Damaged(f"{what} holds no elements of its type, {dtype.value}: {error}") from error
    return _from_bytes(np.ascontiguousarray(array).reshape(-1).view(np.uint8), dtype, shape, what)


def _packed(proto: onnx.TensorProto, dtype: DType, shape: tuple[int, ...], what: str) -> torch.Tensor:
    """Unpack elements of fewer than 8 bits. 6-bit floats that are no raw data have a number each."""
    if dtype.bits == 6 and not proto.HasField("raw_data"):
        codes = torch.tensor(list(proto.int32_data), dtype=torch.int64)
        return _of_count(code_values(dtype)[codes & 63], shape, what)
    raw = proto.raw_data if proto.HasField("raw_data") else bytes(b & 255 for b in proto.int32_data)
    return _unpacked(torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.empty(0), dtype, shape, what)


def _unpacked(data: torch.Tensor, dtype: DType, shape: tuple[int, ...], what: str) -> torch.Tensor:
    count = int(np.prod(shape, dtype=np.float64))
    if data.numel() != packed_size(count, dtype):
        raise Damaged(
            f"{what} says that it is {dtype.value}{list(shape)}, {packed_size(count, dtype)} bytes, but holds "
            f"{data.numel()}"
        )
    return unpack(data, count, dtype).reshape(shape)


def _of_count(elements: torch.Tensor, shape: tuple[int, ...], what: str) -> torch.Tensor:
    if elements.numel() != np.prod(shape, dtype=np.float64):
        raise Damaged(f"{what} says that it has shape {list(shape)}, but holds {elements.numel()} elements")
    return elements.reshape(shape)


def _from_bytes(data: np.ndarray, dtype: DType, shape: tuple[int, ...], what: str) -> torch.Tensor:
    size = dtype.torch.itemsize
    count = int(np.prod(shape, dtype=np.float64))
    if data.size != count * size:
        raise Damaged(f"{what} says that it is {dtype.value}{list(shape)}, {count * size} bytes, but holds {data.size}")
    if not count:
        return torch.empty(shape, dtype=dtype.torch)
    if not data.flags.writeable:
        data = data.copy()
    return torch.from_numpy(data).view(dtype.torch).reshape(shape)


def _external(proto: onnx.TensorProto, dtype: DType, shape: tuple[int, ...], folder: Folder | None) -> torch.Tensor:
    """Map the part of the file that holds the tensor."""
    what = f"tensor {proto.name!r}"
    entries = {entry.key: entry.value for entry in proto.external_data}
    if folder is None:
        raise CaptureError(f"{what} is external data, but the model was given without its folder; give its path")
    location = entries.get("location", "")
    mapped = folder.mapped(location, what)
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries["length"]) if "length" in entries else None
    except ValueError:
        raise Damaged(f"{what}: offset and length of external data must be integers") from None
    count = int(np.prod(shape, dtype=np.float64))
    size = packed_size(count, dtype) if is_packed(dtype) else count * dtype.torch.itemsize
    if length is not None and length != size:
        raise Damaged(f"{what} needs {size} bytes, but its external data has {length}")
    if offset < 0 or offset + size > mapped.size:
        raise Damaged(f"{what}: {location} has {mapped.size} bytes, but bytes {offset} to {offset + size} are needed")
    if not size:
        return torch.empty(shape, dtype=dtype.storage)
    key = (location, offset, dtype, shape)
    if key not in folder.tensors:
        folder.tensors[key] = _at(mapped[offset : offset + size], dtype, shape, what)
    return folder.tensors[key]


def _at(mapped: np.ndarray, dtype: DType, shape: tuple[int, ...], what: str) -> torch.Tensor:
    data = np.asarray(mapped)
    if is_packed(dtype):
        return _unpacked(torch.from_numpy(data), dtype, shape, what)
    if data.ctypes.data % dtype.torch.itemsize:
        data = data.copy()  # kernels may count on alignment
    return torch.from_numpy(data).view(dtype.torch).reshape(shape)
