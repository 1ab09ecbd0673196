"""Frozen features h of a trained encoder.

Shapes: N images of H x W pixels, D features.
"""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stages.files.progress import Progress
from stages.simclr.encoder import FEATURES
from stages.simclr.parallel import rank, total, world

PIXELS = 2**19  # of a batch: 512 images of 32x32


def folded(encoder: nn.Module) -> nn.Module:
    """A copy to evaluate with every BatchNorm made part of the convolution before it: the same function, faster.

    Expects each BatchNorm to be registered right after its convolution, as in ResNets.
    """
    encoder = copy.deepcopy(encoder).eval()
    for parent in encoder.modules():
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())
    return encoder


@torch.inference_mode()
def extract(encoder: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, D) float32; the encoder's weights and BatchNorm statistics stay as they are.

    Several processes take the batches in turn, so that each is computed alike, however many there are.
    """
    frozen = folded(encoder).to(device)
    features = torch.zeros(len(images), FEATURES)
    size = PIXELS // (images.shape[1] * images.shape[2])
    with Progress("features", len(images), "images", silent=rank() > 0) as progress:
        for start in range(0, len(images), size)[rank() :: world()]:
            batch = images[start : start + size].to(device)
            features[start : start + size] = frozen(batch.permute(0, 3, 1, 2)).cpu()
            progress.update(min(len(batch) * world(), len(images) - progress.n))
    return total(features)
