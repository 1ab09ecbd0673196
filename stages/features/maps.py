"""Two-dimensional maps of features."""

import torch
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits
from torch import Tensor


def tsne(x: Tensor, seed: int) -> Tensor:
    """t-SNE of cosine distances: (N, D) -> (N, 2). If all rows are equal, all points are at the origin."""
    if bool((x == x[0]).all()):
        return torch.zeros(len(x), 2)
    with threadpool_limits(1):  # several threads give another map in every run
        model = TSNE(perplexity=min(30, (len(x) - 1) / 3), metric="cosine", init="pca", random_state=seed)
        return torch.from_numpy(model.fit_transform(x.numpy()))
