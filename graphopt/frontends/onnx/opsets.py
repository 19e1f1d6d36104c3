"""Which version of each operator a model means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from graphopt.errors import CaptureError
from graphopt.ops.onnx_nested import short_domain

if TYPE_CHECKING:
    import onnx

LOWEST = 1


@dataclass(frozen=True)
class Opsets:
    """The opset version of each domain (`""` is the standard one)."""

    versions: dict[str, int]

    @staticmethod
    def of(model: onnx.ModelProto) -> Opsets:
        """Return the opsets that a model imports.

        Raises:
            CaptureError: the standard opset is missing, or newer than the onnx package.
        """
        versions = _versions(model.opset_import)
        if model.ir_version < 3:
            versions.setdefault("", 1)
        if "" not in versions and any(not node.domain for node in model.graph.node):
            raise CaptureError("the model does not say which opset it uses; its opset_import is empty")
        return Opsets.checked(versions, "the model")

    @staticmethod
    def imported(imports: Iterable[onnx.OperatorSetIdProto], what: str) -> Opsets:
        """Return the opsets that `what`, a function, imports.

        Raises:
            CaptureError: the standard opset is newer than the onnx package.
        """
        return Opsets.checked(_versions(imports), what)

    @staticmethod
    def checked(versions: dict[str, int], what: str) -> Opsets:
        """Return opsets, of which the standard one is supported if there is one."""
        from onnx import defs

        newest = defs.onnx_opset_version()
        version = versions.setdefault("", 0)
        if version and not LOWEST <= version <= newest:
            raise CaptureError(
                f"{what} uses opset {version}; opsets {LOWEST} to {newest} are supported; install a newer onnx"
            )
        return Opsets(versions)

    def since(self, domain: str, operator: str) -> int:
        """The version of the domain in which the operator, as the model means it, appeared; 0 if none is known."""
        domain = short_domain(domain)
        return _since(domain, operator, self.versions.get(domain))


@lru_cache(maxsize=4096)
def _since(domain: str, operator: str, version: int | None) -> int:
    from onnx import defs

    if version is None or not defs.has(operator, domain):
        return version or 0
    try:
        return int(defs.get_schema(operator, version, domain).since_version)
    except defs.SchemaError:
        raise CaptureError(f"operator {operator} does not exist in opset {version}") from None


def _versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {short_domain(o.domain): o.version for o in imports}
