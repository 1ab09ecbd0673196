"""The whole network, against stock modules."""

import pytest
import torch
import torchvision
from torch import nn
from torch.optim import AdamW

from benchmarks.textbook import info_nce_loss
from stages.images.sample import draw
from stages.simclr.model import SimCLR
from stages.simclr.training import contrast


def test_ten_steps_lose_what_stock_modules_and_the_reference_experiments_loss_do() -> None:
    """In double precision: AdamW's first steps amplify the rounding of single precision, so that there stock modules
    in another memory format differ from themselves by half a per cent."""
    torch.manual_seed(0)
    ours = SimCLR("resnet18", "imagenet", 128).double()
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18()
    resnet.fc = nn.Identity()
    # The reference experiment's head has one hidden layer.
    head = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))
    theirs = nn.Sequential(resnet, head).double()
    optimizers = [AdamW(model.parameters(), lr=2e-4, weight_decay=1e-4, fused=True) for model in (ours, theirs)]
    stream = torch.Generator().manual_seed(0)
    for _ in range(10):
        # Two images of each class instead of two views of each image.
        classes = torch.randint(100, (8,), generator=stream)
        views = draw(classes.repeat(2), 32, stream).permute(0, 3, 1, 2).double()
        loss, _ = contrast(ours(views), 0.07)
        reference = info_nce_loss(theirs(views / 255), 0.07)
        assert loss.item() == pytest.approx(reference.item(), rel=1e-9)
        for term, optimizer in zip((loss, reference), optimizers, strict=True):
            optimizer.zero_grad()
            term.backward()
            optimizer.step()
