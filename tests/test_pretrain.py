"""The training loop's parts: who is held out, what is drawn, what an epoch does."""

import json
import math
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from tqdm import tqdm

from stages import pretrain as stage
from stages.download import starting_weights
from stages.files.params import FILE, load_params
from stages.files.tensors import write_tensors
from stages.pretrain import evaluate, example_views, mean_of, random_stream, split, train_epoch
from stages.simclr.augmentation import augment
from stages.simclr.checkpoint import Checkpoint, resumable
from stages.simclr.health import what_is_wrong
from stages.simclr.model import SimCLR
from tests.repository import ROOT

CPU = torch.device("cpu")
DEVICES = [CPU, *map(torch.device, ["cuda"] * torch.cuda.is_available())]
VIEW = partial(augment, min_area=0.3, jitter=0.5, grayscale=0.2, blur=0.5, flip=True)


def images(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Tiny(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 8))


@pytest.mark.parametrize(
    ("count", "batch_size", "train", "held_out"),
    [(2304, 256, 2048, 256), (50_000, 256, 48_896, 1024), (50_000, 1000, 49_000, 1000), (9, 4, 4, 4), (8, 4, 4, 4)],
)
def test_split_is_whole_batches_of_different_images(count: int, batch_size: int, train: int, held_out: int) -> None:
    parts = split(count, batch_size, random_stream(0, 0, CPU))
    assert [len(part) for part in parts] == [train, held_out]
    together = torch.cat(parts)
    assert len(together.unique()) == train + held_out
    assert together.max() < count


@pytest.mark.parametrize("count", [0, 4, 7])
def test_too_few_images_for_two_batches_are_refused_in_one_line(count: int) -> None:
    with pytest.raises(SystemExit, match=f"batch_size = 4: {count} unlabelled images do not fill two batches"):
        split(count, 4, random_stream(0, 0, CPU))


def test_every_seed_and_every_epoch_draws_its_own_numbers() -> None:
    pairs = [(seed, epoch) for seed in (0, 1, 2, 2**31 - 1) for epoch in (0, 1, 2, 25)]
    first_draws = {torch.rand(1, generator=random_stream(*pair, CPU)).item() for pair in pairs}
    assert len(first_draws) == len(pairs)
    assert torch.rand(1, generator=random_stream(0, 3, CPU)) == torch.rand(1, generator=random_stream(0, 3, CPU))


@pytest.mark.parametrize("device", DEVICES)
def test_an_epoch_learns_and_the_same_epoch_learns_the_same(device: torch.device) -> None:
    def train() -> tuple[list[float], dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        model = Tiny().to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        losses = []
        for epoch in range(1, 6):
            batches = torch.arange(32, device=device).split(16)
            stream = random_stream(0, epoch, device)
            steps = train_epoch(model, images(32).to(device), batches, VIEW, stream, 0.5, optimizer, tqdm(disable=True))
            losses.append(mean_of(steps)["loss"])
        return losses, model.state_dict()

    (losses, weights), (losses_again, weights_again) = train(), train()
    assert losses[-1] < losses[0]
    assert losses == losses_again
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)


@pytest.mark.skipif(len(DEVICES) == 1, reason="there is no GPU")
def test_loss_and_gradients_of_given_views_are_those_of_the_cpu_on_a_gpu_too() -> None:
    def step(device: torch.device) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        model = SimCLR("imagenet", 128).to(device)

        def given(pixels: torch.Tensor, _: torch.Generator) -> torch.Tensor:
            return pixels.permute(0, 3, 1, 2).float()

        z = stage.embed(model, images(64).repeat(2, 1, 1, 1).to(device), given, random_stream(0, 0, device))
        loss, _ = stage.contrast(z, 0.5)
        loss.backward()
        return loss.detach().cpu(), {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}

    (loss, gradients), (loss_there, gradients_there) = step(CPU), step(DEVICES[1])
    torch.testing.assert_close(loss_there, loss, rtol=5e-3, atol=0)
    assert gradients.keys() == gradients_there.keys()
    together, there = (torch.cat([g.flatten() for g in each.values()]) for each in (gradients, gradients_there))
    assert torch.cosine_similarity(together, there, dim=0) > 0.85  # eight bits of bfloat16; on an H100 0.92


@pytest.mark.skipif(len(DEVICES) == 1, reason="there is no GPU")
def test_views_on_a_gpu_have_the_same_mean_and_deviation() -> None:
    same = images(1).repeat(4096, 1, 1, 1)
    views = [VIEW(same.to(device), random_stream(0, 0, device)).cpu() for device in DEVICES]
    assert views[1].mean() == pytest.approx(views[0].mean().item(), rel=0.01)
    assert views[1].std() == pytest.approx(views[0].std().item(), rel=0.01)


def test_scoring_held_out_images_changes_nothing() -> None:
    torch.manual_seed(0)
    model = Tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = torch.arange(32).split(16)
    first, again = (evaluate(model, images(32), batches, VIEW, random_stream(0, 0, CPU), 0.5) for _ in range(2))
    assert first == again
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def run_epoch(model: nn.Module, lr: float, brightest: int = 255) -> str | None:
    optimizer = torch.optim.SGD(model.parameters(), lr)
    batches = torch.arange(32).split(8)
    progress = tqdm(disable=True)
    fitted = train_epoch(model, images(32), batches, VIEW, random_stream(0, 1, CPU), 0.5, optimizer, progress)
    scored = evaluate(model, images(32), batches, VIEW, random_stream(0, 0, CPU), 0.5)
    return what_is_wrong(fitted, scored, images(32) // (256 // (brightest + 1)), torch.arange(32))


def test_a_healthy_epoch_has_nothing_wrong() -> None:
    torch.manual_seed(0)
    assert run_epoch(Tiny(), lr=1e-3) is None


def test_a_loss_that_is_no_number_is_reported_with_its_step() -> None:
    torch.manual_seed(0)
    assert str(run_epoch(Tiny(), lr=math.inf)).startswith("step 2: the loss is nan")


def test_a_last_step_that_breaks_the_weights_is_noticed_on_held_out_images() -> None:
    torch.manual_seed(0)
    model, batch = Tiny(), (torch.arange(8),)
    optimizer = torch.optim.SGD(model.parameters(), math.inf)
    fitted = train_epoch(model, images(8), batch, VIEW, random_stream(0, 1, CPU), 0.5, optimizer, tqdm(disable=True))
    scored = evaluate(model, images(8), batch, VIEW, random_stream(0, 0, CPU), 0.5)
    assert str(what_is_wrong(fitted, scored, images(8), torch.arange(8))).startswith(
        "after step 1, on held-out images: the loss is nan"
    )


@pytest.mark.parametrize("constant", [0, 1])
def test_collapsed_embeddings_are_reported(constant: int) -> None:
    class Collapsed(Tiny):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0 * super().forward(x) + constant

    assert str(run_epoch(Collapsed(), lr=1e-3)).startswith("step 4: all embeddings are the same; a smaller lr")
    # 12-bit images in 16 bits, read by their upper byte.
    faint = str(run_epoch(Collapsed(), lr=1e-3, brightest=15))
    assert faint.startswith("step 4: all embeddings are the same; and the images are faint: their pixels deviate by ")


def test_example_views_are_pictures() -> None:
    shown = example_views(images(8), VIEW, random_stream(0, 0, CPU))
    assert {name: (tuple(value.shape), value.dtype) for name, value in shown.items()} == {
        name: ((8, 32, 32, 3), torch.uint8) for name in ("images", "first", "second")
    }
    assert torch.equal(shown["images"], images(8))
    assert not torch.equal(shown["first"], shown["second"])


def run_stage(device: torch.device = CPU) -> None:
    """The stage on 16 images, three epochs of one step."""
    write_tensors(Path("data/unlabelled.safetensors"), {"images": images(16)})
    write_tensors(Path("data/resnet18.safetensors"), starting_weights(None, seed=0))
    params = load_params(ROOT / FILE).model_copy(update={"batch_size": 8, "epochs": 3})
    with resumable({}) as checkpoint:
        stage.pretrain(params, device, checkpoint, {})


@pytest.mark.parametrize(("epoch", "kept"), [(1, 0), (3, 2)])
def test_a_bad_loss_stops_the_stage_and_keeps_the_epochs_before_it(
    epoch: int, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*arguments: Any) -> list[dict[str, torch.Tensor]]:
        epochs.append(train_epoch(*arguments))
        if len(epochs) == epoch:
            epochs[-1][0]["loss"] = torch.tensor(math.nan)
        return epochs[-1]

    epochs: list[list[dict[str, torch.Tensor]]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "train_epoch", breaks)
    with pytest.raises(SystemExit, match=f"^epoch {epoch}, step 1: the loss is nan") as stopped:
        run_stage()
    assert ("the state before this epoch is kept" in str(stopped.value.code)) == (kept > 0)
    states = list(Path(".dvc/tmp/resume").glob("*.state"))
    assert [len(Checkpoint(path).restore()) for path in states] == [kept] * (kept > 0)
    assert not Path("models/simclr.safetensors").exists()


def test_too_little_room_is_noticed_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**8))
    monkeypatch.setattr(stage, "train_epoch", None)
    with pytest.raises(SystemExit, match=r"^models: 0\.\d\d GB are needed and 0\.10 GB are free"):
        run_stage()
    assert not Path("models").exists()


def outputs() -> dict[str, bytes]:
    folders = ("data", "models", "metrics", "plots")
    return {str(path): path.read_bytes() for name in folders for path in Path(name).rglob("*.*")}


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_can_be_watched_and_after_a_stop_ends_with_the_same_bytes(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after each epoch in turn, and gone on with; the table then has a row per epoch so far and split."""
    (tmp_path / "undisturbed").mkdir()
    monkeypatch.chdir(tmp_path / "undisturbed")
    run_stage(device)
    expected = outputs()
    (tmp_path / "stopped").mkdir()
    monkeypatch.chdir(tmp_path / "stopped")

    def stops_at_the_second(*arguments: Any) -> list[dict[str, torch.Tensor]]:
        epochs.append(1)
        if len(epochs) > 1:
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    for done in (1, 2):
        epochs: list[int] = []
        with monkeypatch.context() as patch, pytest.raises(SystemExit, match=f"the state after epoch {done} is kept"):
            patch.setattr(stage, "train_epoch", stops_at_the_second)
            run_stage(device)
        table = pd.read_csv("plots/data/pretrain.csv")
        assert list(zip(table.epoch, table.split, strict=True)) == [
            (epoch, split) for epoch in range(1, done + 1) for split in ("train", "heldout")
        ]
        metrics = json.loads(Path("metrics/pretrain.json").read_text())
        assert metrics["epoch"] == done
        assert metrics["heldout_loss"] == table.loss.iloc[-1]
    run_stage(device)
    assert outputs() == expected
