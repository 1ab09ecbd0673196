"""The source experiment's own linear layer: mini-batches and AdamW on the features as they are.

Shapes: N images, D features, K classes.
"""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import MultiStepLR

from stages.probing.probe import Probe, Split
from stages.probing.scores import scores
from stages.runtime.errors import UserError


def fit_linear(
    train: Split, test: Split, batch_size: int, epochs: int, lr: float, weight_decay: float, seed: int
) -> Probe:
    """The learning rate falls to a tenth at 60 % and again at 80 % of the epochs.

    Raises UserError where the loss is not finite.
    """
    stream = Generator().manual_seed(seed)
    x, y = torch.tensor(train.x), torch.tensor(train.y)
    layer = nn.Linear(x.shape[1], int(y.max()) + 1)
    bound = x.shape[1] ** -0.5  # torch's own initialisation, from this stream
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=stream)
    optimizer = AdamW(layer.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    schedule = MultiStepLR(optimizer, milestones=[math.ceil(epochs * 0.6), math.ceil(epochs * 0.8)], gamma=0.1)

    @torch.inference_mode()
    def logits(x: np.ndarray) -> np.ndarray:
        return layer(torch.tensor(x)).numpy()

    curve: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        for batch in torch.randperm(len(y), generator=stream).split(batch_size):
            F.cross_entropy(layer(x[batch]), y[batch]).backward()
            optimizer.step()
            optimizer.zero_grad()
        schedule.step()
        for name, split in (("train", train), ("test", test)):
            curve.append({"split": name, **scores(logits(split.x), split.y)})
        loss = curve[-2]["loss"]
        if not math.isfinite(loss):
            raise UserError(
                f"linear layer, epoch {epoch}: the loss is {loss}; a smaller linear.lr or weight_decay usually helps"
            )
    return Probe(logits, curve)
