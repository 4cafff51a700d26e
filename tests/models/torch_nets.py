"""PyTorch networks with torchvision's names and layers, for tests: torchvision itself needs another PyTorch."""

import torch
from torch import nn
from torch.nn import functional as F


class Fire(nn.Module):
    def __init__(self, channels, squeeze, expand):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


def alexnet():
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    )


def vgg16():
    layers, channels = [], 3
    for width in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"):
        if width == "M":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


def squeezenet():
    def pool():
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        *(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool()),
        *(Fire(64, 16, 64), Fire(128, 16, 64), pool()),
        *(Fire(128, 32, 128), Fire(256, 32, 128), pool()),
        *(Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)),
    )


# Features of each network, and the numbers of the modules whose outputs LPIPS compares, with their channels.
NETWORKS = {
    "alex": (alexnet, {1: 64, 4: 192, 7: 384, 9: 256, 11: 256}),
    "vgg": (vgg16, {3: 64, 8: 128, 15: 256, 22: 512, 29: 512}),
    "squeeze": (squeezenet, {1: 64, 4: 128, 7: 256, 9: 384, 10: 384, 11: 512, 12: 512}),
}


class Lpips(nn.Module):
    """LPIPS 0.1 as its authors' package computes it, with the names of its heads."""

    def __init__(self, name):
        super().__init__()
        make, self.taps = NETWORKS[name]
        self.features = make()
        for i, channels in enumerate(self.taps.values()):
            self.add_module(f"lin{i}", nn.ModuleDict({"model": nn.Sequential(nn.Dropout(), head(channels))}))

    def forward(self, first, second):
        total = 0
        for i, (a, b) in enumerate(zip(self.outputs(first), self.outputs(second), strict=True)):
            a, b = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in (a, b))
            total = total + self.get_submodule(f"lin{i}.model")((a - b) ** 2).mean((1, 2, 3))
        return total

    def outputs(self, x):
        shift, scale = (torch.tensor(v)[:, None, None] for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
        x, found = (x - shift) / scale, []
        for number, layer in enumerate(self.features[: max(self.taps) + 1]):  # without the last pooling
            x = layer(x)
            if number in self.taps:
                found.append(x)
        return found


def head(channels):
    return nn.Conv2d(channels, 1, 1, bias=False)


class BasicConv(nn.Module):
    def __init__(self, channels, out, kernel=1, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


ROW, COLUMN = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
SHORT_ROW, SHORT_COLUMN = {"kernel": (1, 3), "padding": (0, 1)}, {"kernel": (3, 1), "padding": (1, 0)}
THREE, HALVE = {"kernel": 3, "padding": 1}, {"kernel": 3, "stride": 2}


def average(x):
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def maximum(x):
    return F.max_pool2d(x, 3, 1, 1)


class Mixed(nn.Module):
    """A block of branches. A branch is a list of convolutions (name, channels, arguments), one after the other.

    A list within a branch is of convolutions side by side.
    """

    def __init__(self, channels, branches, pool):
        super().__init__()
        self.branches, self.pool = branches, pool
        for branch in branches:
            width = channels
            for step in branch:
                parts = step if isinstance(step, list) else [step]
                for name, out, *more in parts:
                    self.add_module(name, BasicConv(width, out, **(more[0] if more else {})))
                width = sum(out for _, out, *_ in parts)

    def forward(self, x):
        outputs = []
        for branch in self.branches:
            y = self.pool(x) if branch and branch[0][0] == "branch_pool" else x
            for step in branch:
                parts = step if isinstance(step, list) else [step]
                y = torch.cat([self.get_submodule(name)(y) for name, *_ in parts], 1)
            outputs.append(y)
        return torch.cat(outputs, 1)


def mixed_a(channels, pool):
    return Mixed(
        channels,
        [
            [("branch1x1", 64)],
            [("branch5x5_1", 48), ("branch5x5_2", 64, {"kernel": 5, "padding": 2})],
            [("branch3x3dbl_1", 64), ("branch3x3dbl_2", 96, THREE), ("branch3x3dbl_3", 96, THREE)],
            [("branch_pool", pool)],
        ],
        average,
    )


class Halving(Mixed):
    def forward(self, x):
        return torch.cat([super().forward(x), F.max_pool2d(x, 3, 2)], 1)


def mixed_b(channels):
    double = [("branch3x3dbl_1", 64), ("branch3x3dbl_2", 96, THREE), ("branch3x3dbl_3", 96, HALVE)]
    return Halving(channels, [[("branch3x3", 384, HALVE)], double], None)


def mixed_c(channels, c):
    double = [("branch7x7dbl_1", c), ("branch7x7dbl_2", c, COLUMN), ("branch7x7dbl_3", c, ROW)]
    return Mixed(
        channels,
        [
            [("branch1x1", 192)],
            [("branch7x7_1", c), ("branch7x7_2", c, ROW), ("branch7x7_3", 192, COLUMN)],
            [*double, ("branch7x7dbl_4", c, COLUMN), ("branch7x7dbl_5", 192, ROW)],
            [("branch_pool", 192)],
        ],
        average,
    )


def mixed_d(channels):
    seven = [("branch7x7x3_1", 192), ("branch7x7x3_2", 192, ROW), ("branch7x7x3_3", 192, COLUMN)]
    three = [("branch3x3_1", 192), ("branch3x3_2", 320, HALVE)]
    return Halving(channels, [three, [*seven, ("branch7x7x3_4", 192, HALVE)]], None)


def mixed_e(channels, pool):
    def sides(name):
        return [(f"{name}a", 384, SHORT_ROW), (f"{name}b", 384, SHORT_COLUMN)]

    return Mixed(
        channels,
        [
            [("branch1x1", 320)],
            [("branch3x3_1", 384), sides("branch3x3_2")],
            [("branch3x3dbl_1", 448), ("branch3x3dbl_2", 384, THREE), sides("branch3x3dbl_3")],
            [("branch_pool", 192)],
        ],
        pool,
    )


class FidInception(nn.Module):
    """The network of pytorch-fid, up to the features `pool3`, with its resizing of images in [0, 1]."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv(3, 32, **HALVE)
        self.Conv2d_2a_3x3 = BasicConv(32, 32, kernel=3)
        self.Conv2d_2b_3x3 = BasicConv(32, 64, **THREE)
        self.Conv2d_3b_1x1 = BasicConv(64, 80)
        self.Conv2d_4a_3x3 = BasicConv(80, 192, kernel=3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = mixed_a(192, 32), mixed_a(256, 64), mixed_a(288, 64)
        self.Mixed_6a = mixed_b(288)
        self.Mixed_6b, self.Mixed_6c = mixed_c(768, 128), mixed_c(768, 160)
        self.Mixed_6d, self.Mixed_6e = mixed_c(768, 160), mixed_c(768, 192)
        self.Mixed_7a = mixed_d(768)
        self.Mixed_7b, self.Mixed_7c = mixed_e(1280, average), mixed_e(2048, maximum)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x):
        x = 2 * F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False) - 1
        for name, layer in self.named_children():
            if name == "fc":
                return x.mean((2, 3))
            x = layer(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, 2)
        raise AssertionError


def randomize(network):
    """The network with He-scaled weights and statistics off their start, so that a wrong scale or bias shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, x in (*network.named_parameters(), *network.named_buffers()):
            if x.ndim > 1:
                x.copy_(torch.randn_like(x) * (2 / x[0].numel()) ** 0.5)
            elif name.endswith("running_var"):
                x.copy_(torch.rand_like(x) + 0.5)
            elif x.dtype.is_floating_point:
                x.copy_(0.1 * torch.randn_like(x) + name.endswith("bn.weight"))
        for name, x in network.named_parameters():
            if name.startswith("lin") and ".model." in name:  # published heads are not negative
                x.abs_()
    return network.eval()
