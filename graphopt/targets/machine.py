"""The devices of this machine, probed: what the CPU has by its own word, peaks and bandwidth by measuring once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from statistics import median
from time import perf_counter
from typing import Any

import torch

from graphopt.ir import DType
from graphopt.targets.cpuinfo import chip_flags, chip_name
from graphopt.targets.device import Device
from graphopt.targets.machine_cache import cached
from graphopt.targets.sheets import CUDA_GPUS, TYPICAL_GPU

PRODUCT, COPIED = 768, 32 << 20
"""The side of the matrices and the bytes of the copy that are measured."""
FEATURES = ("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve")


def cpu_device() -> Device:
    """This machine's CPU. Its rates are measured by the first process that asks, in about half a second."""
    rates = cached(f"cpu-{torch.get_num_threads()}-threads", partial(measure_rates, dtypes=("f32", "f64")))
    return Device(
        "cpu",
        "cpu",
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        peak={"f32": rates["f32"], "f64": rates["f64"]},
        bandwidth=rates["bandwidth"],
        launch=rates["launch"],
        multiples={"f32": 8},
        layouts=("channels_last", "contiguous"),
        features=cpu_features(),
        local=True,
    )


def cuda_count() -> int:
    """How many CUDA devices there are."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def cuda_device(index: int) -> Device:
    """A CUDA device of this machine, its rates by data sheet; where there is none, a typical one, for plans."""
    if index >= cuda_count():
        return replace(CUDA_GPUS[TYPICAL_GPU], name=f"cuda:{index}")
    found = torch.cuda.get_device_properties(index)
    sheet = next((CUDA_GPUS[name] for name in sorted(CUDA_GPUS, key=len, reverse=True) if name in found.name), None)
    return replace(sheet or CUDA_GPUS[TYPICAL_GPU], name=f"cuda:{index}", memory=found.total_memory, local=True)


@cache
def cpu_features() -> tuple[str, ...]:
    """The instruction sets that decide which kernels run."""
    return tuple(name for name in FEATURES if name in chip_flags())


def fingerprint() -> dict[str, Any]:
    """What measured times depend on: chip, cores, threads, PyTorch."""
    return {
        "chip": chip_name(),
        "features": list(cpu_features()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def measure_rates(device: str = "cpu", dtypes: Sequence[str] = ("f32",)) -> dict[str, float]:
    """FLOP/s of a large product of matrices by dtype, bytes/s of a large copy (`bandwidth`), seconds of a call on a few
    numbers (`launch`), measured on a device of PyTorch."""
    size = PRODUCT
    rates = {}
    for name in dtypes:
        a, b = (torch.ones(size, size, dtype=DType(name).torch, device=device) for _ in range(2))
        rates[name] = 2 * size**3 / _seconds(partial(torch.mm, a, b), device)
    large, target = (torch.ones(COPIED, dtype=torch.uint8, device=device) for _ in range(2))
    rates["bandwidth"] = 2 * COPIED / _seconds(partial(target.copy_, large), device)
    rates["launch"] = _seconds(partial(torch.relu, torch.ones(4, device=device)), device, 200)
    return rates


def _seconds(call: Callable[[], Any], device: str, times: int = 7) -> float:
    """The median time of a call, and of a wait for the device."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else None
    taken = []
    for _ in range(times + 1):
        start = perf_counter()
        call()
        if wait is not None:
            wait(device)
        taken.append(perf_counter() - start)
    return median(taken[1:])
