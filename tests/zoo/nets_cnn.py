"""Convolutional networks written out: the classic shapes that pruning, folding and layout passes meet."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LeNet(nn.Module):
    """LeNet with batch norm for images `[batch, 1, 28, 28]`, 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, padding=2)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 5)
        self.bn2 = nn.BatchNorm2d(32)
        self.fc1 = nn.Linear(32 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A bias-free convolution with `same` padding and its batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, width, 3, stride)
        self.conv2, self.bn2 = conv_bn(width, width, 3)
        self.relu = nn.ReLU(inplace=True)
        project = stride != 1 or inputs != width
        self.downsample = nn.Sequential(*conv_bn(inputs, width, 1, stride)) if project else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += shortcut
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1, self.bn1 = conv_bn(inputs, width, 1)
        self.conv2, self.bn2 = conv_bn(width, width, 3, stride)
        self.conv3, self.bn3 = conv_bn(width, outputs, 1)
        self.relu = nn.ReLU(inplace=True)
        project = stride != 1 or inputs != outputs
        self.downsample = nn.Sequential(*conv_bn(inputs, outputs, 1, stride)) if project else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += shortcut
        return self.relu(out)


class ResNet(nn.Module):
    """The torchvision architecture, `[batch, 3, 224, 224]` -> `[batch, classes]`."""

    def __init__(self, block: type[BasicBlock | Bottleneck], depths: tuple[int, ...], classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        width, stages = 64, []
        for index, depth in enumerate(depths):
            outputs = 64 * 2**index
            blocks: list[nn.Module] = []
            for position in range(depth):
                blocks.append(block(width, outputs, 2 if index and not position else 1))
                width = outputs * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class ResNet8(nn.Module):
    """Three residual blocks for images `[batch, channels, 8, 8]`; 78 thousand parameters at one channel."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(channels, 16, 3), nn.ReLU())
        self.blocks = nn.Sequential(BasicBlock(16, 16, 1), BasicBlock(16, 32, 2), BasicBlock(32, 64, 2))
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.head(x.mean(dim=(2, 3)))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; a shortcut where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers += [*conv_bn(inputs, hidden, 1), nn.ReLU6(inplace=True)]
        layers += [*conv_bn(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6(inplace=True)]
        layers += conv_bn(hidden, outputs, 1)
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """The torchvision architecture at width 1, `[batch, 3, 224, 224]` -> `[batch, classes]`."""

    SETTINGS = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(*conv_bn(3, 32, 3, 2), nn.ReLU6(inplace=True))]
        width = 32
        for expand, outputs, depth, stride in self.SETTINGS:
            for position in range(depth):
                layers.append(InvertedResidual(width, outputs, 1 if position else stride, expand))
                width = outputs
        layers.append(nn.Sequential(*conv_bn(width, 1280, 1), nn.ReLU6(inplace=True)))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


class UNet(nn.Module):
    """Two levels down, two up, concatenated skips; `[batch, 3, h, w]` -> `[batch, 2, h, w]`, 4 | h, w."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down1 = self.double(3, width)
        self.down2 = self.double(width, 2 * width)
        self.middle = self.double(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.merge2 = self.double(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.merge1 = self.double(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)

    @staticmethod
    def double(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(*conv_bn(inputs, outputs, 3), nn.ReLU(), *conv_bn(outputs, outputs, 3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        middle = self.middle(F.max_pool2d(second, 2))
        up = self.merge2(torch.cat([self.up2(middle), second], dim=1))
        up = self.merge1(torch.cat([self.up1(up), first], dim=1))
        return self.head(up)


class DenseNet(nn.Module):
    """Every layer reads the concatenation of all earlier ones; batch norm comes before the convolution."""

    def __init__(self, growth: int = 8, depth: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(16 + i * growth),
                nn.ReLU(),
                nn.Conv2d(16 + i * growth, growth, 3, padding=1, bias=False),
            )
            for i in range(depth)
        )
        width = 16 + depth * growth
        self.transition = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 24, 1), nn.AvgPool2d(2))
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, dim=1)))
        x = self.transition(torch.cat(features, dim=1))
        return self.head(x.mean((2, 3)))


class ShuffleUnit(nn.Module):
    """ShuffleNetV2: split the channels, transform one half, concatenate, shuffle."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            *conv_bn(half, half, 1),
            nn.ReLU(),
            *conv_bn(half, half, 3, groups=half),
            *conv_bn(half, half, 1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        keep, change = x.chunk(2, dim=1)
        x = torch.cat([keep, self.branch(change)], dim=1)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return x.view(batch, channels, height, width)


class ShuffleNet(nn.Module):
    """A grouped stem and three shuffle units."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(3, 16, 3, 2), nn.ReLU(), *conv_bn(16, 16, 3, groups=4), nn.ReLU())
        self.units = nn.Sequential(*(ShuffleUnit(16) for _ in range(3)))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.units(self.stem(x)).mean((2, 3)))


class Decoder(nn.Module):
    """A generator of transposed convolutions: latent `[batch, 16]` -> image `[batch, 3, 32, 32]`."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 32 * 4 * 4)
        self.layers = nn.Sequential(
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 4, 2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 16, 3, 2, padding=1, output_padding=1, groups=4),
            nn.BatchNorm2d(16),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(16, 3, 4, 2, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(self.project(z).view(-1, 32, 4, 4))


class AudioNet(nn.Module):
    """Dilated, weight-normalized 1-d convolutions with a gate, `[batch, 1, length]` -> `[batch, 10]`."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.stem = nn.Conv1d(1, 16, 9, 4, padding=4)
        self.filters = nn.ModuleList(norm(nn.Conv1d(16, 32, 3, padding=d, dilation=d)) for d in (1, 2, 4))
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.stem(x), (2, 2), mode="reflect")
        for layer in self.filters:
            value, gate = layer(x).chunk(2, dim=1)
            x = x + torch.tanh(value) * torch.sigmoid(gate)
        x = self.norm(x)
        return self.head(torch.cat([x.mean(-1), x.amax(-1)], dim=1))


class VideoNet(nn.Module):
    """3-d convolutions, `[batch, 2, frames, 16, 16]` -> `[batch, 5]`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(2, 8, 3, padding=1),
            nn.BatchNorm3d(8),
            nn.ReLU(),
            nn.MaxPool3d((1, 2, 2)),
            nn.Conv3d(8, 16, (1, 3, 3), (1, 2, 2), padding=(0, 1, 1), groups=2),
            nn.BatchNorm3d(16),
            nn.ReLU(),
            nn.AvgPool3d(2),
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean((2, 3, 4)))


class NormNet(nn.Module):
    """Group, instance, layer, RMS and local response norm around convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ModuleList(nn.Conv2d(3 if i == 0 else 12, 12, 3, padding=1) for i in range(4))
        self.group = nn.GroupNorm(3, 12)
        self.instance = nn.InstanceNorm2d(12, affine=True)
        self.tracked = nn.InstanceNorm2d(12, affine=True, track_running_stats=True)
        self.response = nn.LocalResponseNorm(3)
        self.layer = nn.LayerNorm(12)
        self.rms = nn.RMSNorm(12, eps=1e-6)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.group(self.conv[0](x)))
        x = F.mish(self.instance(self.conv[1](x)))
        x = F.elu(self.tracked(self.conv[2](x)))
        x = self.response(self.conv[3](x))
        x = self.layer(x.permute(0, 2, 3, 1))
        return self.head(self.rms(x).mean((1, 2)))


class ResampleNet(nn.Module):
    """Pools, pads, pixel shuffles and interpolations in one chain."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular")
        self.mix = nn.Conv2d(8, 16, 3)
        self.tail = nn.Conv2d(4, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.stem(x))
        small = F.avg_pool2d(x, 3, 2, padding=1, count_include_pad=False)
        peaks = F.max_pool2d(x, 3, 2, padding=1, ceil_mode=True)[..., :16, :16]
        x = F.relu6(self.mix(F.pad(small + peaks, (1, 1, 1, 1), mode="replicate")))
        x = F.pixel_shuffle(x, 2)
        x = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
        x = F.interpolate(self.tail(F.pad(x, (1, 1, 1, 1), value=0.5)), size=(24, 24), mode="nearest")
        return F.adaptive_avg_pool2d(x, (8, 6))
