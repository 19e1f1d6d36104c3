"""Methods of decomposition, by name."""

from __future__ import annotations

from graphopt.passes.decomposition.methods.base import Approximation, Method
from graphopt.passes.decomposition.methods.cp import Cp
from graphopt.passes.decomposition.methods.spatial import Spatial
from graphopt.passes.decomposition.methods.svd import Svd
from graphopt.passes.decomposition.methods.tensor_train import TensorTrain
from graphopt.passes.decomposition.methods.tucker import Tucker

METHODS: dict[str, Method] = {method.name: method for method in (Svd(), Tucker(), Cp(), TensorTrain(), Spatial())}

__all__ = ["METHODS", "Approximation", "Method"]
