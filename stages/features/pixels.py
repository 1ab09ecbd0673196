"""The control that needs no network: the pixels themselves, in as many numbers as an encoder gives.

Shapes: N images of S x S pixels, S a multiple of 32; D features.
"""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import Tensor

SIDE = 32
PIXELS = 2**20  # averaged at once: 1024 images of 32x32


def pixel_components(train: Tensor, test: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Pixels in [0, 1] on the first D principal axes of the training images: (N, S, S, 3) -> (N, D).

    Larger images are averaged down to 32x32 first. Features beyond the dimensions that the images have are zero.
    """
    rows, test_rows = _rows(train), _rows(test)
    # Both are exact; which is faster depends on what there is more of.
    solver = "covariance_eigh" if rows.shape[0] > rows.shape[1] else "full"
    kept = min(components, rows.shape[0] - 1, rows.shape[1])  # N centred rows have N - 1 dimensions
    pca = PCA(kept, svd_solver=solver).fit(rows)
    on_train, on_test = (
        torch.from_numpy(np.pad(pca.transform(given), ((0, 0), (0, components - kept)))) for given in (rows, test_rows)
    )
    return on_train, on_test


def _rows(images: Tensor) -> np.ndarray:
    """(N, S, S, 3) uint8 -> (N, 32 * 32 * 3) float32."""
    block = images.shape[1] // SIDE
    rows = torch.empty(len(images), SIDE * SIDE * 3)
    chunk = PIXELS // images.shape[1] ** 2
    for start in range(0, len(images), chunk):
        pixels = images[start : start + chunk].permute(0, 3, 1, 2).float()
        means = F.avg_pool2d(pixels, block) if block > 1 else pixels
        rows[start : start + chunk] = means.permute(0, 2, 3, 1).flatten(1) / 255
    return rows.numpy()
