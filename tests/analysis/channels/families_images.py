"""Convolutional modules for the tests of the analysis."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.analysis.channels.family import Layers, family


@family(2, 2, 3, 8, 8)
class ConvNet(Layers):
    """Convolutions, batch norm, pooling, flatten into a linear layer."""

    def __init__(self) -> None:
        super().__init__(
            a=nn.Conv2d(3, 6, 3, padding=1), bn=nn.BatchNorm2d(6), b=nn.Conv2d(6, 4, 3), c=nn.Linear(4 * 9, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.bn(self.a(x))), 1)
        return self.c(F.avg_pool2d(torch.relu(self.b(x)), 2).flatten(1))


@family(1, 2, 3, 6, 6)
class Residual(Layers):
    """Everything on a residual stream is one group."""

    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 3, padding=1), c=nn.Conv2d(4, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.c(x + torch.tanh(self.b(x)))


@family(3, 2, 3, 6, 6)
class Dense(Layers):
    """Concatenation: each producer keeps its own group."""

    def __init__(self) -> None:
        super().__init__(
            a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 3, 1), c=nn.Conv2d(7, 5, 1), n=nn.BatchNorm2d(7), d=nn.Conv2d(5, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.d(self.c(self.n(torch.cat([x, self.b(x)], 1))).relu())


@family(1, 2, 3, 6, 6)
class ConcatSelf(Layers):
    """A tensor beside itself."""

    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(8, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(torch.cat([x, x], 1))


@family(1, 2, 3, 6, 6)
class MergedConcat(Layers):
    """Two concatenations of the same parts in different order are added."""

    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1), c=nn.Conv2d(8, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        return self.c(torch.cat([a, b], 1) + torch.cat([b, a], 1))


@family(2, 2, 3, 6, 6)
class Depthwise(Layers):
    """Depthwise filters go with their channel."""

    def __init__(self) -> None:
        super().__init__(
            a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 3, groups=4), c=nn.Conv2d(4, 6, 1), d=nn.Conv2d(6, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.c(self.b(self.a(x)).relu()))


@family(3, 2, 3, 6, 6)
class Grouped(Layers):
    """Two groups: whole groups, and columns within them on either side."""

    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 8, 3, groups=2), c=nn.Conv2d(8, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)).relu())


@family(2, 2, 3, 4, 4)
class Transposed(Layers):
    """Transposed convolutions, plain and depthwise."""

    def __init__(self) -> None:
        super().__init__(
            a=nn.ConvTranspose2d(3, 4, 2, 2), b=nn.ConvTranspose2d(4, 4, 2, groups=4), c=nn.ConvTranspose2d(4, 5, 1),
            d=nn.Conv2d(5, 2, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.c(self.b(self.a(x)).relu()).relu())


@family(2, 2, 3, 12)
class Signals(Layers):
    """One-dimensional convolution, instance norm, interpolation."""

    def __init__(self) -> None:
        super().__init__(
            a=nn.Conv1d(3, 4, 3), n=nn.InstanceNorm1d(4, affine=True), b=nn.Conv1d(4, 5, 1), c=nn.Conv1d(5, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.interpolate(self.b(self.n(self.a(x)).relu()), scale_factor=2))


@family(1, 1, 2, 4, 4, 4)
class Volumes(Layers):
    """Three-dimensional convolution."""

    def __init__(self) -> None:
        super().__init__(a=nn.Conv3d(2, 4, 3, padding=1), n=nn.BatchNorm3d(4), b=nn.Conv3d(4, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.max_pool3d(self.n(self.a(x)).relu(), 2))


@family(3, 2, 3, 6, 6)
class Shuffled(Layers):
    """Channel shuffle by view and transpose; the halves that nothing uses are groups of their own."""

    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(3, 8, 1), c=nn.Conv2d(8, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.a(x)[:, :4], self.b(x)[:, 4:]], 1)
        x = x.view(2, 2, 4, 6, 6).transpose(1, 2).reshape(2, 8, 6, 6)
        return self.c(x)


@family(1, 2, 3, 4, 4)
class PixelShuffled(Layers):
    """The places of a pixel shuffle stay, its channels may go."""

    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(3, 12, 1), b=nn.Conv2d(3, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.pixel_shuffle(self.a(x), 2).relu())


@family(1, 2, 3, 6, 6)
class Padded(Layers):
    """Channels padded with zeros, as in shortcuts without a convolution."""

    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 8, 1), c=nn.Conv2d(8, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.pad(self.a(x), (0, 0, 0, 0, 2, 2)) + self.b(x))


@family(1, 2, 3, 8, 8)
class GroupNormed(Layers):
    """One group of statistics: the layer norm of images."""

    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(3, 4, 1), n=nn.GroupNorm(1, 4), b=nn.Conv2d(4, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.n(self.a(x)).relu())


@family(2, 2, 3, 8, 8)
class Excited(Layers):
    """Squeeze and excitation: the gate is of the group that it gates."""

    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(3, 6, 1), s=nn.Conv2d(6, 3, 1), e=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x * torch.sigmoid(self.e(self.s(F.adaptive_avg_pool2d(x, 1)).relu())))
