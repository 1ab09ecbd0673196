"""SimCLR from the components of lightly, put together as in its documentation's example for SimCLR."""

from collections.abc import Iterator

import torch
import torchvision
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

WORKERS = 2


class TwoViews(Dataset[list[Tensor]]):
    def __init__(self, images: Tensor) -> None:
        self.images = images.numpy()
        self.transform = SimCLRTransform(input_size=32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(Image.fromarray(self.images[index]))


class SimCLR(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])
        self.projection_head = SimCLRProjectionHead(512, 512, 128)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x).flatten(start_dim=1))


def training_steps(images: Tensor, batch_size: int) -> Iterator[None]:
    """Trains on (N, 32, 32, 3) uint8 images and yields after every step, for one epoch."""
    model = SimCLR()
    criterion = NTXentLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)
    for x0, x1 in DataLoader(TwoViews(images), batch_size, shuffle=True, drop_last=True, num_workers=WORKERS):
        loss = criterion(model(x0), model(x1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield
