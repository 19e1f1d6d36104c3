"""Steps made ready to run: a function of what the step takes and what it stores, in the forms that its device wants."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch

from graphopt.backends.devices.driver import Driver, Function
from graphopt.backends.devices.emission import emit_part
from graphopt.backends.devices.products import lower_products
from graphopt.backends.devices.semi_structured import is_two_in_four
from graphopt.backends.fx.channels_last import CONVOLUTIONS
from graphopt.errors import TargetError
from graphopt.ir import Graph, TensorType, Value
from graphopt.targets import Device, get_engine


class Form(Enum):
    """How a stored tensor lies on a device."""

    PLAIN = "plain"
    CHANNELS_LAST = "channels last"
    SEMI_STRUCTURED = "two in four"

    def laid_out(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor in the memory format of the form."""
        return tensor.contiguous(memory_format=torch.channels_last) if self is Form.CHANNELS_LAST else tensor

    def made(self, driver: Driver, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the device in the form that kernels read."""
        return driver.semi_structured(tensor) if self is Form.SEMI_STRUCTURED else tensor

    def on(self, driver: Driver, device: str, tensor: torch.Tensor) -> torch.Tensor:
        """Store a tensor on a device in this form."""
        return self.made(driver, driver.store(self.laid_out(tensor), device))


class Stored:
    """A stored tensor and its form. The same elements in one form are one, however many constants hold them."""

    def __init__(self, tensor: torch.Tensor, form: Form = Form.PLAIN) -> None:
        self.tensor, self.form = tensor, form
        self.size = tensor.nbytes
        # By where the elements lie: parts of a graph hold views of a tensor of their own.
        self._key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, form)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stored) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@dataclass(frozen=True)
class Prepared:
    """function: takes the inputs of the part, then `stored`. opaque: runs outside of PyTorch's operators.

    static: takes tensors of fixed shapes alone, so that its launches may be recorded.
    """

    function: Function
    stored: tuple[Stored, ...]
    opaque: bool
    static: bool


def prepared(part: Graph, device: Device, driver: Driver) -> Prepared:
    """Make a part ready for its device.

    Raises:
        EmissionError: an operator that the engine cannot express.
        TargetError: the device's engine cannot run here.
    """
    if device.engine not in ("", "eager"):
        return _by_engine(part, device, driver)
    part = lower_products(part, device, driver)
    stored = tuple(Stored(_tensor(v), _form(v, device, driver)) for v in part.constants.values())
    return Prepared(emit_part(part), stored, False, _is_static(part))


def _by_engine(part: Graph, device: Device, driver: Driver) -> Prepared:
    """What another engine runs: it holds the weights itself."""
    engine = get_engine(device.engine)
    reason = engine.missing() or engine.unsupported(part)
    if reason:
        raise TargetError(f"engine {device.engine!r} of {device.name} cannot run its part of the graph: {reason}")
    executable = engine.load(part)
    return Prepared(executable.run, (), True, False)


def _form(value: Value, device: Device, driver: Driver) -> Form:
    users = {use.node.op.base for use in value.uses if use.index == 1}
    alone = len(users) == 1 and all(use.index == 1 for use in value.uses)
    tensor = _tensor(value)
    if alone and device.layouts[:1] == ("channels_last",) and tensor.dim() == 4 and users <= CONVOLUTIONS:
        return Form.CHANNELS_LAST
    if alone and users == {"aten.linear"} and driver.has("semi-structured", device.name) and is_two_in_four(tensor):
        return Form.SEMI_STRUCTURED
    return Form.PLAIN


def _tensor(value: Value) -> torch.Tensor:
    assert value.constant is not None
    return value.constant.tensor.detach()


def _is_static(part: Graph) -> bool:
    return all(isinstance(v.type, TensorType) and not v.type.symbols for v in part.inputs) and not any(
        node.regions or node.op.evaluate is None for node in part
    )
