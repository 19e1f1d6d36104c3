"""What Linux says of the processor, in /proc/cpuinfo; nothing on other systems."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
X86 = ("x86_64", "amd64", "i386", "i686")


def chip_name() -> str:
    """The processor's name as the system gives it."""
    return _fields().get("model name") or platform.processor() or platform.machine()


@cache
def chip_flags() -> frozenset[str]:
    """The instruction sets and units of this machine's processor."""
    return flags_of(CPUINFO.read_text() if CPUINFO.is_file() else "", platform.machine())


def flags_of(cpuinfo: str, machine: str) -> frozenset[str]:
    """Return the flags that Linux lists; x86 of which nothing is known is taken to have AVX2 alone.

    >>> sorted(flags_of("flags : avx2 avx_vnni", "x86_64")), sorted(flags_of("", "AMD64"))
    (['avx2', 'avx_vnni'], ['avx2'])
    """
    lines = (line.partition(":") for line in cpuinfo.splitlines() if line.startswith(("flags", "Features")))
    found = frozenset(word for _, _, words in lines for word in words.split())
    return found or frozenset({"avx2"} if machine.lower() in X86 else ())


@cache
def _fields() -> dict[str, str]:
    """The fields of the first processor."""
    found: dict[str, str] = {}
    for line in CPUINFO.read_text().splitlines() if CPUINFO.is_file() else ():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found
