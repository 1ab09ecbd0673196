"""The encoder f of SimCLR (section 2.1): torchvision's ResNet without its classifier.

The same parameters under the same names, the same initialisation and the same function as torchvision's. Only two
things are computed in another way, because at 32x32 they are most of the time that a training step takes on a CPU:

* 3x3 convolutions on maps of at most 2x2 are one matrix product (`TinyMapConv2d`);
* the stem takes its maximum before the ReLU: both are monotonic, so the result is the same bit for bit.

Shapes: B images, H x W pixels, D features (512, of a ResNet-50 2048), C channels in, O channels out, h x w map in,
p x q map out. Pixels come in as 0..255, in any dtype. The scaling to [0, 1] is here and nowhere else, so that
pretraining and feature extraction cannot disagree. As in the source experiment there is no mean and no standard
deviation.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

BACKBONES = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}
LARGEST_TINY_MAP = 4  # positions; measured on 2 CPU cores: 2x2 maps gain, 4x4 maps lose


class TinyMapConv2d(nn.Conv2d):
    """A 3x3 convolution that becomes a dense matrix product on maps of at most `LARGEST_TINY_MAP` positions.

    With a padding of 1 most taps of the kernel only ever see padding on such a map: on 1x1 just the centre tap touches
    data. Outputs and gradients are those of `nn.Conv2d` up to rounding (taps that see only padding get a gradient of
    zero). On the CPU only, where it was measured: oneDNN's backward pass on such maps is what it avoids, and GPUs
    don't use oneDNN.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, O, p, q)."""
        height, width = x.shape[2:]
        if height * width > LARGEST_TINY_MAP or x.device.type != "cpu":
            return super().forward(x)
        stride = self.stride[0]
        out_height, out_width = ((side - 1) // stride + 1 for side in (height, width))
        taps = self.weight.flatten(2).unbind(2)  # 9 of (O, C)
        nothing = torch.zeros_like(taps[0])

        def tap(p: int, q: int, i: int, j: int) -> Tensor:
            """The (O, C) weights with which input position (i, j) enters output position (p, q)."""
            a, b = i - stride * p + 1, j - stride * q + 1
            return taps[3 * a + b] if 0 <= a < 3 and 0 <= b < 3 else nothing

        inputs, outputs = list(product(range(height), range(width))), product(range(out_height), range(out_width))
        dense = torch.cat([torch.cat([tap(*out, *place) for place in inputs], 1) for out in outputs])  # (p q O, h w C)
        rows = x.permute(0, 2, 3, 1).flatten(1)  # (B, h w C): a view where x is channels_last
        # Feature extraction folds BatchNorm into the convolution, which then has a bias.
        y = F.linear(rows, dense, None if self.bias is None else self.bias.repeat(out_height * out_width))
        return y.unflatten(1, (out_height, out_width, self.out_channels)).permute(0, 3, 1, 2)


class Encoder(ResNet):
    """From pixels to h, randomly initialised (He initialisation).

    stem: "imagenet" keeps torchvision's 7x7 stride-2 convolution and max-pool; "cifar" is a 3x3 stride-1
    convolution without max-pool (SimCLR, appendix B.9).
    """

    def __init__(self, backbone: str, stem: str) -> None:
        block, layers = BACKBONES[backbone]
        super().__init__(block, layers)
        self.stem = stem
        self.features = 512 * block.expansion
        self.fc = nn.Identity()
        if stem == "cifar":
            self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.maxpool = nn.Identity()
        # torchvision's forward takes the ReLU first; the maximum first leaves a quarter of the work.
        self.relu, self.maxpool = self.maxpool, self.relu
        self.set_3x3_convolutions(TinyMapConv2d)
        self.to(memory_format=torch.channels_last)

    def set_3x3_convolutions(self, kind: type[nn.Conv2d]) -> None:
        """nn.Conv2d makes them PyTorch's own, which compute the same and have fewer operations to export."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                module.__class__ = kind

    def load_torchvision(self, state: dict[str, Tensor]) -> None:
        """Takes over torchvision's weights, but for its classifier and, with the CIFAR stem, its stem."""
        own = self.state_dict()
        kept = ("conv1.", "bn1.") if self.stem == "cifar" else ()
        self.load_state_dict({name: own[name] if name.startswith(kept) else state[name] for name in own})

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) pixels 0..255 -> h (B, D)."""
        return super().forward(x / 255)
