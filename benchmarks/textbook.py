"""SimCLR as in the UvA deep learning tutorial 17, with the settings of the reference experiment.

Pillow transforms of single images in a DataLoader, stock modules, broadcast cosine similarities. It is the baseline for
the speed of `stages/pretrain.py`, so it is deliberately not optimised.
"""

import os
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

WORKERS = len(os.sched_getaffinity(0))
PREFETCHED = 2 * WORKERS  # batches, by a DataLoader
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TRANSFORM = transforms.Compose(
    [
        transforms.RandomHorizontalFlip(),
        transforms.RandomResizedCrop(size=32),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.RandomApply([transforms.GaussianBlur(kernel_size=3)], p=0.5),
        transforms.ToTensor(),
    ]
)


class TwoViews(Dataset[list[Tensor]]):
    def __init__(self, images: Tensor, views: Callable[[Image.Image], list[Tensor]]) -> None:
        self.images, self.views = images.numpy(), views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.views(Image.fromarray(self.images[index]))


def two_views(image: Image.Image) -> list[Tensor]:
    return [TRANSFORM(image), TRANSFORM(image)]


def info_nce_loss(z: Tensor, temperature: float) -> Tensor:
    similarities = F.cosine_similarity(z[:, None, :], z[None, :, :], dim=-1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    similarities.masked_fill_(itself, -9e15)
    positive = itself.roll(shifts=len(z) // 2, dims=0)
    similarities = similarities / temperature
    return (-similarities[positive] + torch.logsumexp(similarities, dim=-1)).mean()


def network() -> nn.Module:
    model = torchvision.models.resnet18(num_classes=4 * 128)
    model.fc = nn.Sequential(model.fc, nn.ReLU(), nn.Linear(4 * 128, 128))
    return model.to(DEVICE)


def training_steps(model: nn.Module, optimizer: Optimizer, images: Tensor, batch_size: int) -> Iterator[None]:
    """Trains on (N, 32, 32, 3) uint8 images and yields after every step, for one epoch."""
    for views in DataLoader(TwoViews(images, two_views), batch_size, shuffle=True, drop_last=True, num_workers=WORKERS):
        optimizer.zero_grad()
        loss = info_nce_loss(model(torch.cat(views).to(DEVICE)), 0.07)
        loss.backward()
        optimizer.step()
        yield
