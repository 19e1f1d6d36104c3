"""The devices of this machine, probed: what the CPU has by its own word, peaks and bandwidth by measuring once."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from graphopt.targets.device import Device
from graphopt.targets.machine_cache import cached
from graphopt.targets.sheets import CUDA_GPUS, TYPICAL_GPU

FEATURES = ("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve")


def cpu_device() -> Device:
    """This machine's CPU. Its rates are measured by the first process that asks, in about half a second."""
    rates = cached(f"cpu-{torch.get_num_threads()}-threads", _measure_cpu)
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
    flags = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return tuple(name for name in FEATURES if name in flags)


def fingerprint() -> dict[str, Any]:
    """What measured times depend on: chip, cores, threads, PyTorch."""
    return {
        "chip": _chip(),
        "features": list(cpu_features()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


@cache
def _chip() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else ():
        key, _, value = line.partition(":")
        if key.strip() == field:
            return value.strip()
    return ""


def _measure_cpu() -> dict[str, float]:
    """FLOP/s of a large product of matrices, bytes/s of a large copy, seconds of a call on a few numbers."""
    size = 768
    rates = {}
    for name, dtype in (("f32", torch.float32), ("f64", torch.float64)):
        a, b = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
        rates[name] = 2 * size**3 / _seconds(lambda a=a, b=b: torch.mm(a, b))
    large = torch.ones(1 << 23)
    target = torch.empty_like(large)
    rates["bandwidth"] = 2 * large.nbytes / _seconds(lambda: target.copy_(large))
    few = torch.ones(4)
    rates["launch"] = _seconds(lambda: torch.relu(few), 200)
    return rates


def _seconds(call: Any, times: int = 7) -> float:
    call()
    taken = []
    for _ in range(times):
        start = perf_counter()
        call()
        taken.append(perf_counter() - start)
    return median(taken)
