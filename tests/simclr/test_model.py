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


def stock_modules() -> nn.Sequential:
    """The source experiment's network: torchvision's, and a head of one hidden layer."""
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18()
    resnet.fc = nn.Identity()
    return nn.Sequential(resnet, nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128)))


def simclr() -> SimCLR:
    torch.manual_seed(0)
    return SimCLR("resnet18", "imagenet", 128)


def test_simclr_is_the_source_experiments_head_after_the_encoder() -> None:
    model, stock = simclr().eval(), stock_modules().eval()
    ours, theirs = list(model.state_dict().values()), list(stock.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    x = 255 * torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x), stock(x / 255), rtol=1e-4, atol=1e-4)


def test_twenty_steps_lose_what_stock_modules_and_the_tutorials_loss_do() -> None:
    """In double precision: AdamW's first steps amplify the rounding of single precision, so that there stock modules
    in another memory format differ from themselves by half a per cent."""
    ours = simclr().double()
    theirs = stock_modules().double()
    optimizers = [AdamW(model.parameters(), lr=2e-4, weight_decay=1e-4, fused=True) for model in (ours, theirs)]
    stream = torch.Generator().manual_seed(0)
    for _ in range(20):
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
