"""Frozen features h of a trained encoder.

Shapes: N images of H x W pixels, D features.
"""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm

BATCH = 512


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
    """(N, H, W, 3) uint8 -> (N, D) float32; the encoder's weights and BatchNorm statistics stay as they are."""
    frozen = folded(encoder).to(device)
    batches = tqdm(images.split(BATCH), unit=" batches", disable=None, leave=False)
    return torch.cat([frozen(batch.to(device).permute(0, 3, 1, 2)).cpu() for batch in batches])
