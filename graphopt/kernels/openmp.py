"""Teams of threads: PyTorch's own OpenMP threads run a compiled function, so that none stand in each other's way.

On platforms where PyTorch brings no GNU OpenMP, the parts run one after another.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

import torch

_PART = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)


@lru_cache(maxsize=1)
def _runtime() -> ctypes.CDLL | None:
    """The library of threads that PyTorch has loaded."""
    for file in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        try:
            runtime = ctypes.CDLL(str(file))
        except OSError:
            return None
        runtime.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        runtime.GOMP_parallel.restype = None
        return runtime
    return None


def thread_number_address() -> int | None:
    """Where the function is that says which thread of a team calls it; None where there are no teams."""
    runtime = _runtime()
    return None if runtime is None else ctypes.cast(runtime.omp_get_thread_num, ctypes.c_void_p).value


class Team:
    """A compiled function, run once by each thread. part: void(arguments, thread); all: void(arguments), on a team."""

    def __init__(self, part: int, all_: int | None) -> None:
        self._part = _PART(part)
        self._all = all_

    def __call__(self, arguments: int, threads: int) -> None:
        """Run the parts 0 to threads - 1, and return when all are done."""
        runtime = _runtime()
        if threads > 1 and self._all is not None and runtime is not None:
            runtime.GOMP_parallel(self._all, arguments, threads, 0)
        else:
            for thread in range(threads):
                self._part(arguments, thread)
