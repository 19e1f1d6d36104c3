"""LLVM, through llvmlite: no compiler is needed on the machine.

Modules are built with `llvmlite.ir`, optimized for this chip, and kept for as long as the process runs.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import Any

from graphopt.kernels.openmp import thread_number_address

THREAD_NUMBER = "omp_get_thread_num"


def unavailable() -> str | None:
    """Why no kernel can be made here, or None."""
    if importlib.util.find_spec("llvmlite") is None:
        return "llvmlite is not installed: pip install 'graphopt[sparse]'"
    return None


@lru_cache(maxsize=1)
def _machine() -> Any:
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    address = thread_number_address()
    if address is not None:
        binding.add_symbol(THREAD_NUMBER, address)
    features = binding.get_host_cpu_features().flatten()
    return binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=features, opt=3, jit=True
    )


@lru_cache(maxsize=1)
def lanes() -> int:
    """How many 32-bit floats this chip computes at once."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return 16 if features.get("avx512f") else 8 if features.get("avx2") else 4


@lru_cache(maxsize=1)
def registers() -> int:
    """How many vector registers this chip has."""
    return 16 if lanes() == 8 else 32


class Compiled:
    """Machine code of a module; its functions live as long as it does."""

    def __init__(self, text: str) -> None:
        from llvmlite import binding

        machine = _machine()
        module = binding.parse_assembly(text)
        module.verify()
        builder = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=3))
        builder.getModulePassManager().run(module, builder)
        self._engine = binding.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Where a function of the module is."""
        return int(self._engine.get_function_address(name))
