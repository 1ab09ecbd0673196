"""The control that needs no network: the pixels themselves, in as many numbers as an encoder gives.

Shapes: N images of H x W pixels, D features.
"""

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor


def pixel_components(train: Tensor, test: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Pixels in [0, 1] on the first D principal axes of the training images: (N, H, W, 3) -> (N, D).

    Features beyond the dimensions that the images have are zero.
    """

    def rows(images: Tensor) -> np.ndarray:
        return images.flatten(1).float().div_(255).numpy()

    # Both are exact; which is faster depends on what there is more of.
    shape = train.flatten(1).shape
    solver = "covariance_eigh" if shape[0] > shape[1] else "full"
    kept = min(components, shape[0] - 1, shape[1])  # N centred rows have N - 1 dimensions
    pca = PCA(kept, svd_solver=solver).fit(rows(train))
    on_train, on_test = (
        torch.from_numpy(np.pad(pca.transform(rows(images)), ((0, 0), (0, components - kept))))
        for images in (train, test)
    )
    return on_train, on_test
