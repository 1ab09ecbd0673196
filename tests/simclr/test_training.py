"""The parts of the training loop: split, random numbers, batches, steps, epochs, errors."""

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

from stages.io.tensors import open_tensors, write_tensors
from stages.simclr import augmentation
from stages.simclr.model import SimCLR
from stages.simclr.monitoring import find_problem
from stages.simclr.training import (
    TrainingStep,
    epoch_seed,
    evaluate,
    load_batches,
    mean_of,
    split,
    to_gpu,
    train_epoch,
)
from tests.repository import CPU, VIEW, random_images

META = torch.device("meta")
GPUS = [torch.device("cuda", 0)] * torch.cuda.is_available()


def epoch_rng(epoch: int, device: torch.device = CPU) -> Generator:
    return Generator(device).manual_seed(epoch_seed(0, epoch))


class Tiny(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 8))


@pytest.mark.parametrize(
    ("count", "batch_size", "train", "held_out"),
    [
        (2304, 256, 2048, 256),
        (50_000, 256, 48_896, 1024),
        (50_000, 1000, 49_000, 1000),
        (9, 4, 4, 4),
        (8, 4, 4, 4),
        (7, 4, 0, 4),
    ],
)
def test_the_split_has_whole_batches_of_distinct_images(count: int, batch_size: int, train: int, held_out: int) -> None:
    parts = split(count, batch_size, epoch_rng(0))
    assert [len(part) for part in parts] == [train, held_out]
    together = torch.cat(parts)
    assert len(together.unique()) == train + held_out
    assert together.max() < count


def test_every_seed_and_epoch_gives_different_random_numbers() -> None:
    pairs = [(seed, epoch) for seed in (0, 1, 2, 2**31 - 1) for epoch in (0, 1, 2, 25)]
    first_draws = {torch.rand(1, generator=Generator().manual_seed(epoch_seed(*pair))).item() for pair in pairs}
    assert len(first_draws) == len(pairs)


@pytest.mark.parametrize("device", [CPU, *GPUS])
def test_batches_read_from_a_file_equal_those_of_images_in_memory(device: torch.device, tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", {"images": random_images(64)})
    stored = open_tensors(tmp_path / "x.safetensors")[0]["images"]
    batches = torch.randperm(64, generator=epoch_rng(1, device), device=device).split(8)
    expected = [random_images(64)[batch.cpu().repeat(2)] for batch in batches]
    for source in (stored, random_images(64), to_gpu(stored, device), random_images(64).to(device)):
        loaded = list(load_batches(source, batches))
        assert all(each.device == device for each in loaded)
        assert all(torch.equal(each.cpu(), wanted) for each, wanted in zip(loaded, expected, strict=True))


class NoWaiting(TorchDispatchMode):
    """Forbids operations that synchronise with a GPU: reading a number, or creating a tensor from host numbers."""

    REFUSED = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in self.REFUSED):
            raise RuntimeError(f"{func}: the host would wait for the GPU, or the GPU for the host")
        return func(*args, **(kwargs or {}))


def test_nothing_in_a_step_waits_for_the_device_or_copies_from_the_host() -> None:
    torch.manual_seed(0)
    model = SimCLR("resnet18", "imagenet", 128)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    step = TrainingStep(model, optimizer, VIEW, 0.5, epoch_rng(1))
    step(random_images(8).repeat(2, 1, 1, 1))  # creates the optimizer's state
    optimizer.param_groups[0]["lr"] = torch.tensor(1e-3)  # as in a graph
    with NoWaiting():
        step(random_images(8).repeat(2, 1, 1, 1))
        for waits in (lambda: torch.tensor([5.0, 3.0, 1.0], device=CPU), lambda: torch.ones(1).item()):
            with pytest.raises(RuntimeError, match="would wait"):
                waits()


class MetaGenerator(Generator):
    device = property(lambda _: META)  # type: ignore[assignment]


def test_a_step_reads_no_value_and_needs_no_tensor_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device meta, where tensors have no values and fit to no tensor of the CPU."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # meta has none
    model = SimCLR("resnet18", "imagenet", 128).to(META)
    step = TrainingStep(model, torch.optim.SGD(model.parameters()), VIEW, 0.5, MetaGenerator())
    images = torch.empty(16, 32, 32, 3, dtype=torch.uint8, device=META)
    assert {value.device for value in step(images).values()} == {META}
    for mistake in (lambda x: x + torch.ones(32), lambda x: x + x.cpu().to(META), lambda x: x + x[x > 0].mean()):
        monkeypatch.setattr(augmentation, "turn_hue", lambda x, _, mistake=mistake: mistake(x))
        with pytest.raises((RuntimeError, NotImplementedError)):
            step(images)


@pytest.mark.parametrize("device", [CPU, *GPUS])
def test_training_reduces_the_loss_and_is_deterministic(device: torch.device) -> None:
    def train() -> tuple[list[float], dict[str, Tensor]]:
        torch.manual_seed(0)
        model = Tiny().to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        losses = []
        for epoch in range(1, 6):
            batches = torch.arange(32, device=device).split(16)
            step = TrainingStep(model, optimizer, VIEW, 0.5, epoch_rng(epoch, device))
            losses.append(mean_of(train_epoch(step, random_images(32).to(device), batches, tqdm(disable=True)))["loss"])
        return losses, model.state_dict()

    (losses, weights), (losses_again, weights_again) = train(), train()
    assert losses[-1] < losses[0]
    assert losses == losses_again
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)


def test_evaluation_does_not_change_the_model() -> None:
    torch.manual_seed(0)
    model = Tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = torch.arange(32).split(16)
    first, again = (evaluate(model, random_images(32), batches, VIEW, epoch_rng(0), 0.5) for _ in range(2))
    assert first == again
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def problem_of_an_epoch(model: nn.Module, lr: float, count: int = 32, brightest: int = 255) -> str | None:
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr), VIEW, 0.5, epoch_rng(1))
    batches = torch.arange(count).split(8)
    fitted = train_epoch(step, random_images(count), batches, tqdm(disable=True))
    scored = evaluate(model, random_images(count), batches, VIEW, epoch_rng(0), 0.5)
    return find_problem(fitted, scored, random_images(count) // (256 // (brightest + 1)), torch.arange(count))


@pytest.mark.parametrize(
    ("lr", "count", "expected"),
    [
        (1e-3, 32, "None"),
        (math.inf, 32, "step 2: the loss is nan"),
        (math.inf, 8, "after step 1, on held-out images: the loss is nan"),  # the last step breaks the weights
    ],
)
def test_a_loss_that_is_not_finite_is_reported_with_its_step(lr: float, count: int, expected: str) -> None:
    torch.manual_seed(0)
    assert str(problem_of_an_epoch(Tiny(), lr, count)).startswith(expected)


@pytest.mark.parametrize("constant", [0, 1])
def test_collapsed_embeddings_are_reported(constant: int) -> None:
    class Collapsed(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * super().forward(x) + constant

    problem = str(problem_of_an_epoch(Collapsed(), lr=1e-3))
    assert problem.startswith("step 4: all embeddings are equal; a smaller lr")
    # As if only the upper byte of 12-bit images was read.
    problem = str(problem_of_an_epoch(Collapsed(), lr=1e-3, brightest=15))
    assert problem.startswith(
        "step 4: all embeddings are equal; check the images, which have a low contrast (standard "
    )
