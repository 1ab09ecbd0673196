"""The whole network compared with stock modules."""

import pytest
import torch
import torchvision
from torch import nn
from torch.optim import AdamW

from benchmarks.textbook import info_nce_loss
from stages.images.sample import draw
from stages.simclr.model import SimCLR
from stages.simclr.training import loss_and_metrics


def test_five_training_steps_have_the_losses_of_stock_modules_and_the_textbook_loss() -> None:
    """In float64, because AdamW's first steps amplify rounding: in float32, the losses of stock modules differ by 0.5 %
    between memory formats.
    """
    torch.manual_seed(0)
    ours = SimCLR("resnet18", "imagenet", 128).double()
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18()
    resnet.fc = nn.Identity()
    # The reference experiment's head has one hidden layer.
    head = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))
    theirs = nn.Sequential(resnet, head).double()
    optimizers = [AdamW(model.parameters(), lr=2e-4, weight_decay=1e-4, fused=True) for model in (ours, theirs)]
    rng = torch.Generator().manual_seed(0)
    for _ in range(5):
        # Two images of each class in place of two views of each image.
        classes = torch.randint(100, (8,), generator=rng)
        views = draw(classes.repeat(2), 32, rng).permute(0, 3, 1, 2).double()
        loss, _ = loss_and_metrics(ours(views), 0.07)
        reference = info_nce_loss(theirs(views / 255), 0.07)
        assert loss.item() == pytest.approx(reference.item(), rel=1e-9)
        for term, optimizer in zip((loss, reference), optimizers, strict=True):
            optimizer.zero_grad()
            term.backward()
            optimizer.step()
