"""Several processes give the results of one (in float64, to exclude rounding), and typical mistakes are detected."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm

from stages.features.extraction import extract
from stages.simclr import distributed, training
from stages.simclr.loss import cosine_similarities, without_self
from stages.simclr.model import SimCLR
from tests.repository import CPU, VIEW, random_images, refusal

BATCH, PROCESSES = 8, 2
TOLERANCE = 1e-10  # relative to the largest value of a tensor

Step = dict[str, Tensor]  # the loss, and the changes of the parameters and BatchNorm's statistics


def view(images: Tensor, rng: Generator) -> Tensor:
    return VIEW(images, rng).double()


def one_step() -> Step:
    """The changes by a step of SGD with learning rate 1, so that they are the gradients."""
    torch.manual_seed(0)
    model: nn.Module = SimCLR("resnet18", "imagenet", 16).double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    distributed.synchronise_batch_norm(model)
    rng = Generator().manual_seed(training.epoch_seed(0, 1))
    images = torch.randint(0, 256, (BATCH, 32, 32, 3), dtype=torch.uint8, generator=rng)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = training.TrainingStep(model, optimizer, view, 0.5, rng)
    steps = training.train_epoch(step, images, (torch.arange(BATCH),), tqdm(disable=True))
    changes = {name: tensor - before[name] for name, tensor in model.state_dict().items()}
    return {"loss": steps[0]["loss"]} | changes


def features() -> Tensor:
    """Features of three batches of the extraction, so that one process has nothing to do at the end."""
    torch.manual_seed(0)
    return extract(SimCLR("resnet18", "imagenet", 16).encoder, random_images(1100), CPU).all()


def mean_of_gradients(model: nn.Module) -> None:
    distributed.sum_gradients(model)
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad /= distributed.world_size()


def own_rows_only(z: Tensor, temperature: float) -> tuple[Tensor, Any]:
    """Each process has the loss of its own rows only, so its embeddings get no gradient as candidates of other rows."""
    logits = without_self(cosine_similarities(z)) / temperature
    partner = torch.arange(len(z)).roll(len(z) // 2)
    own = nn.functional.cross_entropy(distributed.shard(logits), distributed.shard(partner), reduction="sum") / len(z)
    return own, {"loss": distributed.all_reduce(own.detach().clone())}


def both_views_of_its_images(rows: Tensor) -> Tensor:
    """With this shard, the gathered rows are not all first views followed by all second views."""
    return distributed.shard(rows[: len(rows) // 2]).repeat(2)


MISTAKES: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "gradients averaged": (training, "sum_gradients", mean_of_gradients),
    "candidates without a gradient": (training, "loss_and_metrics", own_rows_only),
    "views in another order": (training, "shard", both_views_of_its_images),
    "BatchNorm per process": (distributed, "synchronise_batch_norm", lambda model: None),
}


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    found: dict[str, Any] = {"correct": one_step(), "features": features()}
    for name, (module, what, wrong) in MISTAKES.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, what, wrong)
            found[name] = one_step()
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def difference(step: Step, expected: Step) -> dict[str, float]:
    """The largest difference in each tensor, relative to the largest expected value."""
    assert step.keys() == expected.keys()
    return {
        name: float((step[name] - value).abs().max() / value.abs().max().clamp(min=1e-30))
        for name, value in expected.items()
    }


def test_loss_gradients_batchnorm_and_features_of_several_processes_equal_those_of_one(tmp_path: Path) -> None:
    """Typical mistakes are detected. All in one test, so that pytest-xdist starts the processes only once."""
    spawn(worker, (tmp_path,), nprocs=PROCESSES)
    runs = [torch.load(tmp_path / f"{rank}.pt") for rank in range(PROCESSES)]
    first, *others = (each["correct"] for each in runs)
    assert all(torch.equal(other[name], first[name]) for other in others for name in first)
    alone = one_step()
    differences = difference(first, alone)
    assert {"loss", "head.2.weight", "encoder.conv1.weight", "encoder.layer4.1.bn2.running_var"} <= differences.keys()
    assert max(differences.values()) < TOLERANCE, max(differences.items(), key=lambda item: item[1])
    for mistake in MISTAKES:
        assert max(difference(runs[0][mistake], alone).values()) > 1e-3, mistake
    expected = features()
    assert all(torch.equal(each["features"], expected) for each in runs)


def test_a_process_without_a_gpu_and_a_full_gpu_are_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fills_the_memory() -> None:
        with distributed.processes():
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refusal(fills_the_memory).startswith("the memory of the GPU is full; use a smaller batch_size")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert "launch: starts more processes than this host has GPUs (2)" in refusal(fills_the_memory)
