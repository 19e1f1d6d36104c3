"""Devices by their data sheets: CUDA GPUs, and targets for planning only. Dense peaks, without structured sparsity."""

from __future__ import annotations

from graphopt.targets.device import Capability, Device, Link
from graphopt.targets.target import Target

GIB = 1 << 30
PCIE3, PCIE4, PCIE5 = 12e9, 24e9, 48e9
"""Bytes/s that a copy between pinned host memory and a GPU reaches over 16 lanes."""
LINK_LATENCY = 10e-6
_KERNEL = 5e-6
_TENSOR_CORES = {"f16": 8, "bf16": 8, "i8": 16}


def _gpu(
    memory: float, bandwidth: float, f32: float, f16: float, i8: float = 0, f8: float = 0, f64: float = 0
) -> Device:
    """memory in GiB, bandwidth in GB/s, peaks in TFLOP/s."""
    peak = {"f64": f64 or f32 / 32, "f32": f32, "f16": f16, "bf16": f16}
    peak |= {"i8": i8, "u8": i8} if i8 else {}
    peak |= {"f8e4m3fn": f8, "f8e5m2": f8} if f8 else {}
    return Device(
        "cuda:0",
        "cuda",
        memory=int(memory * GIB),
        peak={dtype: rate * 1e12 for dtype, rate in peak.items()},
        bandwidth=bandwidth * 1e9,
        launch=_KERNEL,
        multiples=_TENSOR_CORES,
        layouts=("channels_last", "contiguous"),
    )


CUDA_GPUS: dict[str, Device] = {
    "T4": _gpu(15, 320, 8.1, 65, 130),
    "V100": _gpu(16, 900, 15.7, 125, f64=7.8),
    "A10": _gpu(23, 600, 31.2, 125, 250),
    "A100": _gpu(40, 1555, 19.5, 312, 624, f64=9.7),
    "RTX 3090": _gpu(24, 936, 35.6, 142, 284),
    "RTX 4090": _gpu(24, 1008, 82.6, 330, 661, 661),
    "L4": _gpu(23, 300, 30.3, 121, 242, 242),
    "L40S": _gpu(45, 864, 91.6, 362, 733, 733),
    "H100": _gpu(80, 3350, 66.9, 989, 1979, 1979, 33.5),
    "H200": _gpu(141, 4800, 66.9, 989, 1979, 1979, 33.5),
}
"""By a part of the name that the driver gives."""

TYPICAL_GPU = "T4"
"""What `"cuda"` stands for in plans where there is no GPU."""

EDGE_CPU = Target(
    "edge-cpu",
    "an edge CPU of four cores beside a small neural unit; for planning only",
    ("eager",),
    devices=(
        Device(
            "cpu",
            "cpu",
            memory=1 * GIB,
            peak={"f32": 48e9, "f16": 96e9, "i8": 192e9, "u8": 192e9},
            bandwidth=8e9,
            launch=2e-6,
            multiples={"f32": 4, "i8": 16},
            layouts=("channels_last", "contiguous"),
            features=("asimd",),
            power=4.0,
            energy=8.0,
        ),
        Device(
            "npu:0",
            "npu",
            memory=256 << 20,
            peak={"f16": 1e12, "i8": 2e12, "u8": 2e12},
            bandwidth=6e9,
            launch=2e-5,
            multiples={"f16": 16, "i8": 32},
            layouts=("channels_last",),
            power=1.5,
            energy=3.0,
        ),
    ),
    links=(Link("cpu", "npu:0", bandwidth=4e9, latency=3e-5),),
    capabilities=tuple(
        Capability(operator, ("npu",), ("f16", "f32", "i8", "u8"), ("channels_last",), "channel", True)
        for operator in (
            *("aten.conv1d*", "aten.conv2d*", "aten.linear", "aten.addmm", "aten.mm", "aten.bmm", "aten.matmul"),
            *("aten.relu*", "aten.hardtanh", "aten.clamp", "aten.sigmoid", "aten.hardswish", "aten.hardsigmoid"),
            *("aten.add.*", "aten.mul.*", "aten.sub.*", "aten.batch_norm", "aten.cat", "aten.softmax*"),
            *("aten.max_pool2d", "aten.avg_pool2d", "aten.adaptive_avg_pool2d", "aten.mean.dim"),
            *("aten.reshape", "aten.view", "aten.flatten.*", "aten.permute", "aten.transpose.*", "aten.slice.*"),
        )
    ),
)
TPU = Target(
    "tpu",
    "a host CPU with one tensor-processing chip; for planning only",
    ("eager",),
    devices=(
        Device("cpu", "cpu", memory=64 * GIB, peak={"f32": 1e12}, bandwidth=5e10, launch=3e-6, power=150.0),
        Device(
            "tpu:0",
            "tpu",
            memory=16 * GIB,
            peak={"f32": 49e12, "bf16": 197e12, "i8": 394e12},
            bandwidth=8.1e11,
            launch=2e-6,
            multiples={"f32": 128, "bf16": 128, "i8": 128},
            power=200.0,
            energy=100.0,
        ),
    ),
    links=(Link("cpu", "tpu:0", bandwidth=PCIE3, latency=2e-5),),
)
FPGA = Target(
    "fpga",
    "a host CPU with an FPGA card of fixed-point engines; for planning only",
    ("eager",),
    devices=(
        Device("cpu", "cpu", memory=16 * GIB, peak={"f32": 2e11}, bandwidth=2e10, launch=3e-6, power=60.0),
        Device(
            "fpga:0",
            "fpga",
            memory=8 * GIB,
            peak={"f32": 8e11, "f16": 1.6e12, "i8": 1.8e13, "u8": 1.8e13},
            bandwidth=3.8e10,
            launch=1e-5,
            multiples={"i8": 32},
            layouts=("channels_last",),
            power=35.0,
            energy=20.0,
        ),
    ),
    links=(Link("cpu", "fpga:0", bandwidth=PCIE3, latency=3e-5),),
    capabilities=tuple(
        Capability(operator, ("fpga",), ("f32", "f16", "i8", "u8"), (), "tensor", True)
        for operator in (
            *("aten.conv2d*", "aten.linear", "aten.addmm", "aten.mm", "aten.matmul", "aten.relu*", "aten.hardtanh"),
            *("aten.add.Tensor", "aten.mul.Tensor", "aten.batch_norm", "aten.max_pool2d", "aten.avg_pool2d"),
            *("aten.adaptive_avg_pool2d", "aten.reshape", "aten.view", "aten.flatten.*", "aten.cat"),
        )
    ),
)
