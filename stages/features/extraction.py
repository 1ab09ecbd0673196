"""Frozen features h of a trained encoder.

Shapes: N images of H x W pixels, D features.
"""

import copy
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stages.io.tensors import Rows, Stream
from stages.runtime.errors import UserError
from stages.runtime.progress import progress_bar
from stages.simclr.distributed import all_reduce, rank, world_size
from stages.simclr.encoder import Encoder

PIXELS_PER_BATCH = 2**19  # 512 images of 32x32


def folded(encoder: nn.Module) -> nn.Module:
    """A copy in evaluation mode with every BatchNorm folded into the convolution before it: the same function, faster.

    Each BatchNorm must be registered directly after its convolution, as in ResNets.
    """
    encoder = copy.deepcopy(encoder).eval()
    for parent in encoder.modules():
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())
    return encoder


def extract(encoder: Encoder, images: Rows | Tensor, device: torch.device) -> Stream:
    """(N, H, W, 3) uint8 -> (N, D) float32; the encoder's weights and BatchNorm statistics do not change.

    Each of several processes computes whole batches, so the result does not depend on their number. Every process gets
    all features, and every process must read the whole stream. Reading raises UserError if a feature is not finite.
    """
    return Stream((len(images), encoder.features), torch.float32, _features(encoder, images, device))


@torch.inference_mode()
def _features(encoder: Encoder, images: Rows | Tensor, device: torch.device) -> Iterator[Tensor]:
    frozen = folded(encoder).to(device)
    size = max(1, PIXELS_PER_BATCH // (images.shape[1] * images.shape[2]))
    with progress_bar("features", len(images), "images", silent=rank() > 0) as progress:
        for first in range(0, len(images), size * world_size()):
            features = torch.zeros(min(size * world_size(), len(images) - first), encoder.features)
            own = rank() * size
            batch = images[first + own : first + own + size].to(device)
            if len(batch):
                features[own : own + size] = frozen(batch.permute(0, 3, 1, 2)).cpu()
            features = all_reduce(features)
            if not bool(features.isfinite().all()):
                raise UserError("the encoder gives features that are not finite; pretrain again, with a smaller lr")
            yield features
            progress.update(len(features))
