"""Maps of features in two dimensions, to look at."""

import torch
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits
from torch import Tensor


def tsne(x: Tensor, seed: int) -> Tensor:
    """t-SNE of cosine distances: (N, D) -> (N, 2). Equal rows, which it can't place, all come to the origin."""
    if bool((x == x[0]).all()):
        return torch.zeros(len(x), 2)
    with threadpool_limits(1):  # so that two runs give the same map
        model = TSNE(perplexity=min(30, (len(x) - 1) / 3), metric="cosine", init="pca", random_state=seed)
        return torch.from_numpy(model.fit_transform(x.numpy()))
