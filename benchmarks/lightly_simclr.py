"""SimCLR from the components of lightly, combined as in the SimCLR example of its documentation.

Colour distortion, pixels in [0, 1] and temperature are those of the reference experiment.
"""

from collections.abc import Iterator

import torchvision
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from benchmarks.textbook import DEVICE, WORKERS, TwoViews


class SimCLR(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])
        self.projection_head = SimCLRProjectionHead(512, 512, 128)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x).flatten(start_dim=1))


def training_steps(model: SimCLR, optimizer: Optimizer, images: Tensor, batch_size: int) -> Iterator[None]:
    """Trains on (N, 32, 32, 3) uint8 images and yields after every step, for one epoch."""
    criterion = NTXentLoss(temperature=0.07)
    two_views = TwoViews(images, SimCLRTransform(input_size=32, cj_strength=0.5, normalize=None))
    for x0, x1 in DataLoader(two_views, batch_size, shuffle=True, drop_last=True, num_workers=WORKERS):
        loss = criterion(model(x0.to(DEVICE)), model(x1.to(DEVICE)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield
