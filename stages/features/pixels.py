"""The control without a network: raw pixels, projected by PCA to as many features as an encoder gives.

Shapes: N images of S x S pixels, S a multiple of 32; D features.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import Tensor

from stages.io.tensors import Rows, Stream

SIDE = 32
PIXELS_PER_CHUNK = 2**20  # 1024 images of 32x32
MAX_PCA_IMAGES = 50_000  # evenly spaced training images: 600 MB


def pixel_components(train: Rows | Tensor, test: Rows | Tensor, components: int) -> tuple[Stream, ...]:
    """Pixels in [0, 1], projected on the first D principal axes of the training images: (N, S, S, 3) -> (N, D).

    Larger images are averaged down to 32x32 first. If there are fewer than D axes, the other features are zero.
    """
    rows = np.concatenate(list(_averaged(train, step=-(-len(train) // MAX_PCA_IMAGES))))
    # Both solvers are exact; this one is the faster.
    solver = "covariance_eigh" if rows.shape[0] > rows.shape[1] else "full"
    kept = min(components, rows.shape[0] - 1, rows.shape[1])  # N centred rows span at most N - 1 dimensions
    pca = PCA(kept, svd_solver=solver).fit(rows)

    def projected(images: Rows | Tensor) -> Iterator[Tensor]:
        for rows in _averaged(images):
            yield torch.from_numpy(np.pad(pca.transform(rows), ((0, 0), (0, components - kept))))

    return tuple(Stream((len(images), components), torch.float32, projected(images)) for images in (train, test))


def _averaged(images: Rows | Tensor, step: int = 1) -> Iterator[np.ndarray]:
    """(M, 32 * 32 * 3) float32 in [0, 1], every `step`-th image."""
    side = images.shape[1]
    chunk = step * max(1, PIXELS_PER_CHUNK // side**2)
    for start in range(0, len(images), chunk):
        pixels = images[start : start + chunk : step].permute(0, 3, 1, 2).float()
        means = F.avg_pool2d(pixels, side // SIDE) if side > SIDE else pixels
        yield (means.permute(0, 2, 3, 1).flatten(1) / 255).numpy()
