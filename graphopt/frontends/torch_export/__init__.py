"""The PyTorch front end: `torch.export`, then node by node into the IR, functionalized on the way."""

from graphopt.frontends.torch_export.archive import load_archive
from graphopt.frontends.torch_export.capture import capture

__all__ = ["capture", "load_archive"]
