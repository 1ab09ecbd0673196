"""The linear layer of the reference experiment: mini-batches and AdamW on unscaled features.

Shapes: N images, D features, K classes.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import MultiStepLR

from stages.probing.probe import Curve
from stages.runtime.errors import UserError


@dataclass
class LinearLayer:
    """The learning rate is divided by ten at 60 % and at 80 % of the epochs.

    curve: collects the scores after every epoch. `fit` raises UserError if the loss is not finite.
    """

    batch_size: int
    epochs: int
    lr: float
    weight_decay: float
    seed: int
    curve: Curve | None = None

    def fit(self, features: np.ndarray, labels: np.ndarray) -> Self:
        rng = Generator().manual_seed(self.seed)
        x, y = torch.tensor(features), torch.tensor(labels)
        self.layer = nn.Linear(x.shape[1], int(y.max()) + 1)
        bound = x.shape[1] ** -0.5  # torch's initialisation, but with this generator
        for parameter in self.layer.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=rng)
        optimizer = AdamW(self.layer.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
        milestones = [math.ceil(self.epochs * fraction) for fraction in (0.6, 0.8)]
        schedule = MultiStepLR(optimizer, milestones, gamma=0.1)
        for epoch in range(1, self.epochs + 1):
            for batch in torch.randperm(len(y), generator=rng).split(self.batch_size):
                loss = F.cross_entropy(self.layer(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            schedule.step()
            if not math.isfinite(loss.item()):
                raise UserError(
                    f"linear layer, epoch {epoch}: the loss is {loss.item()}; a smaller linear.lr or weight_decay "
                    "usually helps"
                )
            if self.curve:
                self.curve.add(epoch, self)
        return self

    @torch.inference_mode()
    def decision_function(self, x: np.ndarray) -> np.ndarray:
        return self.layer(torch.tensor(x)).numpy()
