"""Training on a GPU: as one CUDA graph, and compared with the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from tqdm import tqdm

from stages.io.tensors import open_tensors, write_tensors
from stages.simclr.graph import GraphedStep
from stages.simclr.model import SimCLR
from stages.simclr.training import Metrics, TrainingStep, embed, epoch_seed, loss_and_metrics, train_epoch
from tests.repository import CPU, VIEW, random_images

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
GPU = torch.device("cuda", 0)


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize(
    ("stem", "batch_size"), [("imagenet", 256), ("imagenet", 4096), ("cifar", 256), ("cifar", 4096)]
)
def test_a_graph_gives_the_bytes_of_single_steps_even_if_it_is_recorded_again(
    stem: str, batch_size: int, in_file: bool, tmp_path: Path
) -> None:
    """Weights, moments and metrics after two epochs of six steps, with different learning rates and draws."""
    if stem == "cifar" and torch.cuda.get_device_properties(GPU).total_memory < 8e6 * batch_size:
        pytest.skip("the GPU has too little memory")
    torch.use_deterministic_algorithms(True, warn_only=True)
    write_tensors(tmp_path / "x.safetensors", {"images": random_images(6 * batch_size)})
    stored = open_tensors(tmp_path / "x.safetensors")[0]["images"]
    images = stored if in_file else stored.all().to(GPU)

    def train(graphed: bool, stopped: bool = False) -> tuple[dict[str, Tensor], list[list[float]]]:
        def made() -> tuple[SimCLR, torch.optim.AdamW]:
            torch.manual_seed(0)
            model = SimCLR("resnet18", stem, 128).to(GPU)
            return model, torch.optim.AdamW(model.parameters(), fused=True)

        def stepped(model: SimCLR, optimizer: torch.optim.AdamW) -> tuple[Any, Generator]:
            rng = Generator(GPU)
            step = TrainingStep(model, optimizer, VIEW, 0.07, rng)
            return (GraphedStep(step) if graphed else step), rng

        model, optimizer = made()
        step, rng = stepped(model, optimizer)
        metrics: list[Metrics] = []
        for epoch in (1, 2):
            # A graph has the learning rate in float32, so this one is exact in float32.
            optimizer.param_groups[0]["lr"] = 2.0**-12 / epoch
            rng.manual_seed(epoch_seed(0, epoch))
            batches = torch.randperm(len(images), generator=rng, device=GPU).split(batch_size)
            metrics += train_epoch(step, images, batches, tqdm(disable=True))
            if stopped:
                kept = model.state_dict(), optimizer.state_dict()
                model, optimizer = made()
                model.load_state_dict(kept[0])
                optimizer.load_state_dict(kept[1])
                step, rng = stepped(model, optimizer)
        moments = {f"{n}.{k}": v for n, s in optimizer.state_dict()["state"].items() for k, v in s.items()}
        return {**model.state_dict(), **moments}, [[float(value) for value in step.values()] for step in metrics]

    expected, metrics = train(graphed=False)
    for stopped in (False, False, True):
        found, found_metrics = train(graphed=True, stopped=stopped)
        assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
        assert found_metrics == metrics


def test_loss_and_gradients_on_a_gpu_agree_with_the_cpu() -> None:
    def gradients_on(device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(0)
        model = SimCLR("resnet18", "imagenet", 128).to(device)

        def given(pixels: Tensor, _: Generator) -> Tensor:
            return pixels.permute(0, 3, 1, 2).float()

        z = embed(model, random_images(64).repeat(2, 1, 1, 1).to(device), given, Generator(device).manual_seed(0))
        loss, _ = loss_and_metrics(z, 0.5)
        loss.backward()
        return loss.detach().cpu(), {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}

    (loss, gradients), (loss_there, gradients_there) = gradients_on(CPU), gradients_on(GPU)
    torch.testing.assert_close(loss_there, loss, rtol=5e-3, atol=0)
    assert gradients.keys() == gradients_there.keys()
    together, there = (torch.cat([g.flatten() for g in each.values()]) for each in (gradients, gradients_there))
    assert torch.cosine_similarity(together, there, dim=0) > 0.85  # 0.92 on an H100; bfloat16 has eight bits


def test_views_on_a_gpu_have_the_same_mean_and_deviation() -> None:
    same = random_images(1).repeat(4096, 1, 1, 1)
    here, there = (VIEW(same.to(device), Generator(device).manual_seed(0)).cpu() for device in (CPU, GPU))
    assert there.mean() == pytest.approx(here.mean().item(), rel=0.01)
    assert there.std() == pytest.approx(here.std().item(), rel=0.01)
