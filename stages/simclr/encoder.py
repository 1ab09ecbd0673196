"""The encoder f of SimCLR (section 2.1): torchvision's ResNet without its classifier.

It has the parameters, names, initialisation and function of torchvision's. Two parts are computed in another way,
because at 32x32 they take most of a training step's time on a CPU:

* 3x3 convolutions on maps of at most 2x2 are one matrix product (`TinyMapConv2d`);
* the stem's max-pool comes before its ReLU: both are monotonic, so the result has the same bits.

Shapes: B images, H x W pixels, D features (512; 2048 for a ResNet-50), C channels in, O channels out, h x w map in,
p x q map out. Inputs are pixels in 0..255, in any dtype. They are scaled to [0, 1] only here, so that pretraining and
feature extraction cannot differ. As in the reference experiment, no mean and standard deviation are applied.
"""

from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

from stages.io.tensors import read_tensors
from stages.runtime.errors import UserError

BACKBONES = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}
MAX_TINY_POSITIONS = 4  # measured on 2 CPU cores: faster on 2x2 maps, slower on 4x4 maps


class TinyMapConv2d(nn.Conv2d):
    """A 3x3 convolution that is computed as a dense matrix product on maps of at most `MAX_TINY_POSITIONS` positions.

    With a padding of 1, most taps of the kernel see only padding on such a map: on 1x1 only the centre tap sees data.
    Outputs and gradients are those of `nn.Conv2d` up to rounding. On the CPU only, because it avoids oneDNN's slow
    backward pass on such maps.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, O, p, q)."""
        height, width = x.shape[2:]
        if height * width > MAX_TINY_POSITIONS or x.device.type != "cpu":
            return super().forward(x)
        stride = self.stride[0]
        out_height, out_width = ((side - 1) // stride + 1 for side in (height, width))
        taps = self.weight.flatten(2).unbind(2)  # 9 of (O, C)
        nothing = torch.zeros_like(taps[0])

        def tap(p: int, q: int, i: int, j: int) -> Tensor:
            """The (O, C) weights from input position (i, j) to output position (p, q)."""
            a, b = i - stride * p + 1, j - stride * q + 1
            return taps[3 * a + b] if 0 <= a < 3 and 0 <= b < 3 else nothing

        inputs, outputs = list(product(range(height), range(width))), product(range(out_height), range(out_width))
        dense = torch.cat([torch.cat([tap(*out, *place) for place in inputs], 1) for out in outputs])  # (p q O, h w C)
        rows = x.permute(0, 2, 3, 1).flatten(1)  # (B, h w C): a view if x is channels_last
        # A convolution with a folded BatchNorm has a bias (feature extraction).
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
        # Swapped, because torchvision's forward calls relu first: after the max-pool it has a quarter of the work.
        self.relu, self.maxpool = self.maxpool, self.relu
        self.set_3x3_convolutions(TinyMapConv2d)
        self.to(memory_format=torch.channels_last)

    def set_3x3_convolutions(self, kind: type[nn.Conv2d]) -> None:
        """Changes their class: to nn.Conv2d for the export, which then has fewer operations."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                module.__class__ = kind

    def load_torchvision(self, state: dict[str, Tensor]) -> None:
        """Loads torchvision's weights, except for the classifier and, with the CIFAR stem, the stem.

        Raises UserError if they are those of another backbone.
        """
        own = self.state_dict()
        kept = ("conv1.", "bn1.") if self.stem == "cifar" else ()
        try:
            self.load_state_dict({name: own[name] if name.startswith(kept) else state[name] for name in own})
        except (KeyError, RuntimeError) as error:
            raise UserError(
                "the starting weights are those of another backbone; `dvc repro` gets the right ones"
            ) from error

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) pixels 0..255 -> h (B, D)."""
        return super().forward(x / 255)


def load_encoder(file: Path) -> tuple[Encoder, dict[str, Any]]:
    """The encoder in a file that `pretrain` has written, and the file's metadata."""
    state, metadata = read_tensors(file)
    encoder = Encoder(metadata["backbone"], metadata["stem"])
    encoder.load_state_dict(state)
    return encoder, metadata
