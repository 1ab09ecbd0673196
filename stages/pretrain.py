"""Stage `pretrain`: SimCLR (Chen et al. 2020, algorithm 1) on the unlabelled images.

Reads   data/unlabelled.safetensors, data/resnet18.safetensors (the weights to start from)
Writes  models/initial.safetensors   the encoder before SimCLR, without a head
        models/simclr.safetensors    the encoder after it, without a head
        data/views.safetensors       a few images and two views of each, for the report
        plots/data/pretrain.csv      loss and health, a row per epoch and split; grows while it trains
        metrics/pretrain.json        the last epoch's

Shapes: B images of a batch, V = 2B views, P numbers of a projection z.
"""

import ctypes
import math
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from tqdm import tqdm

from stages import check_arithmetic
from stages.files.contract import contract
from stages.files.inputs import fingerprints, inputs_must_not_change
from stages.files.params import Params, load_params
from stages.files.progress import Progress
from stages.files.tensors import Rows, open_tensors, read_tensors, write_tensors
from stages.files.writing import require_room, write_metrics, write_table
from stages.simclr.augmentation import augment
from stages.simclr.checkpoint import Checkpoint, History, resumable
from stages.simclr.encoder import FEATURES
from stages.simclr.health import contrastive_metrics, embedding_health, what_is_wrong
from stages.simclr.loss import cosine_similarities, nt_xent
from stages.simclr.model import SimCLR
from stages.simclr.parallel import (
    gather,
    must_agree,
    processes,
    rank,
    share,
    sum_gradients,
    synchronise_batch_norm,
    world,
)

HELD_OUT_SHARE = 0.02  # of the images, rounded up to whole batches: the loss depends on the number of candidates
HEALTH_IMAGES = 4096
SHOWN_IMAGES = 8
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h

View = Callable[[Tensor, Generator], Tensor]  # (B, H, W, 3) uint8 -> (B, 3, H, W)
Metrics = dict[str, Tensor]  # scalars of one step, left on the device


def main() -> None:
    params = load_params()
    check_arithmetic(params.threads, params.same_bytes)
    set_up()
    with processes() as device:
        made_of = fingerprints("pretrain")
        inputs = made_of | {"torch": torch.__version__, "device": device.type}
        must_agree(inputs)
        if params.batch_size % world():
            sys.exit(f"params.yaml: batch_size = {params.batch_size}: does not divide by the {world()} processes")
        run = inputs | {"processes": str(world())}
        with resumable(run) as checkpoint, inputs_must_not_change("pretrain"):
            pretrain(params, device, checkpoint, made_of)


def pretrain(params: Params, device: torch.device, checkpoint: Checkpoint, made_of: dict[str, str]) -> None:
    torch.manual_seed(params.seed)
    first = rank() == 0  # the process that writes

    images = open_tensors(Path("data/unlabelled.safetensors"))[0]["images"]
    train, held_out = split(len(images), params.batch_size, random_stream(params.seed, 0, device))
    view = partial(augment, **params.augment.model_dump())

    model = SimCLR(params.stem, params.projection_dim)
    model.encoder.load_torchvision(read_tensors(Path("data/resnet18.safetensors"))[0])
    notes = contract(
        "ResNet-18 without its classifier, under torchvision's parameter names",
        made_of,
        stem=params.stem,
        input="RGB in [0, 1]: the square in the middle of an image, scaled to image_size",
        image_size=images.shape[1],
        features=FEATURES,
    )
    # Two encoders, both once more in DVC's cache, and a state of three times the weights, twice while it is replaced.
    size = sum(tensor.nbytes for tensor in model.encoder.state_dict().values())
    if first:
        for place in (Path("models"), checkpoint.path):
            require_room(place, 10 * size)
        write_tensors(Path("models/initial.safetensors"), model.encoder.state_dict(), notes)
    model.to(device)
    synchronise_batch_norm(model)
    optimizer = AdamW(model.parameters(), lr=params.lr, weight_decay=params.weight_decay, fused=True)
    # It reaches a fiftieth after the last epoch, which itself trains at more: of 25 epochs at a 42nd.
    schedule = CosineAnnealingLR(optimizer, T_max=params.epochs, eta_min=params.lr / 50)

    # Every epoch draws from a generator of its own, so that no generator needs to be kept.
    history = checkpoint.restore(model=model, optimizer=optimizer, schedule=schedule)
    if first:
        publish(history)
    done, total = (epochs * len(train) for epochs in (len(history), params.epochs))
    with Progress("pretraining", total, "images", done, silent=not first) as progress:
        for epoch in range(len(history) + 1, params.epochs + 1):
            stream = random_stream(params.seed, epoch, device)
            shuffled = train[torch.randperm(len(train), generator=stream, device=device)]
            batches = shuffled.split(params.batch_size)
            steps = train_epoch(model, images, batches, view, stream, params.temperature, optimizer, progress)
            # The same views of the held-out images after every epoch, so that the curve shows the model alone.
            stream = random_stream(params.seed, 0, device)
            scored = evaluate(model, images, held_out.split(params.batch_size), view, stream, params.temperature)
            if trouble := what_is_wrong(steps, scored, images, held_out[: params.batch_size]):
                sys.exit(f"epoch {epoch}, {trouble}" + ("; the state before this epoch is kept" if history else ""))
            fitted, lr = mean_of(steps), float(schedule.get_last_lr()[0])
            history.append({"epoch": epoch, "lr": lr, "train": fitted, "heldout": scored})
            schedule.step()
            if first:
                checkpoint.save(history, model=model, optimizer=optimizer, schedule=schedule)
                publish(history)
                progress.say(
                    f"epoch {epoch}/{params.epochs}: loss {fitted['loss']:.3f}, held-out {scored['loss']:.3f}; "
                    f"top-1 {fitted['top1']:.1%}, held-out {scored['top1']:.1%}"
                )

    if not first:
        return
    write_tensors(Path("models/simclr.safetensors"), model.encoder.state_dict(), notes)
    shown = images[train[:SHOWN_IMAGES]].to(device)
    write_tensors(Path("data/views.safetensors"), example_views(shown, view, random_stream(params.seed, 0, device)))
    # The disk may have filled up since. DVC copies the encoders only when this stage has ended and the state is gone.
    require_room(checkpoint.path, 3 * size)


def publish(history: History) -> None:
    """Writes the table and the metrics of the epochs so far, for `dvc plots` and `dvc exp show` while it trains."""
    if not history:
        return
    rows = [
        {"epoch": epoch["epoch"], "split": split, "lr": epoch["lr"], **epoch[split]}
        for epoch in history
        for split in ("train", "heldout")
    ]
    write_table(Path("plots/data/pretrain.csv"), pd.DataFrame(rows))
    last = history[-1]
    heldout = {name: last["heldout"][name] for name in ("alignment", "uniformity", "rank")}
    losses = {f"{split}_{name}": last[split][name] for split in ("train", "heldout") for name in ("loss", "top1")}
    write_metrics(Path("metrics/pretrain.json"), {"epoch": last["epoch"], **losses, **heldout})


def set_up() -> None:
    """Deterministic algorithms, and memory that is not cleared again and again."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Part of that, but it only helps to find bugs: NaN in every new tensor before it is written, 8 % of the step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # glibc returns freed blocks to the kernel, which clears them when they are wanted again in the next step.
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def random_stream(seed: int, epoch: int, device: torch.device) -> Generator:
    """A generator for one epoch (0: what is drawn once). Epochs are independent of how many were drawn before."""
    # Mixed into 32 bits by NumPy, because the Mersenne Twister behind torch's CPU generator ignores the higher ones.
    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    return Generator(device).manual_seed(mixed)


def split(count: int, batch_size: int, stream: Generator) -> tuple[Tensor, Tensor]:
    """Indices of the training images and of the held-out ones, both whole batches (what is over is left out).

    Exits where there are fewer than two batches.
    """
    held_out = batch_size * max(1, math.ceil(count * HELD_OUT_SHARE / batch_size))
    train = (count - held_out) // batch_size * batch_size
    if train <= 0:
        sys.exit(
            f"params.yaml: batch_size = {batch_size}: {count} unlabelled images do not fill two batches "
            "(one to train on, one held out); take a smaller batch or add images"
        )
    order = torch.randperm(count, generator=stream, device=stream.device)
    return order[held_out : held_out + train], order[:held_out]


def loaded(images: Rows | Tensor, batches: tuple[Tensor, ...], device: torch.device) -> Iterator[Tensor]:
    """This process's share of every batch, read while the step before computes.

    images: (N, H, W, 3) uint8; batches: (B,) indices each. Yields (V, H, W, 3) uint8: each image for two views, all for
    the first views, then all for the second.
    """

    def load(batch: Tensor) -> Tensor:
        return images[share(batch.repeat(2))]

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(load, batches[0])
        for following in batches[1:]:
            current, ahead = ahead.result(), reader.submit(load, following)
            yield current.to(device)
        yield ahead.result().to(device)


def embed(model: nn.Module, images: Tensor, view: View, stream: Generator) -> Tensor:
    """A view of each image (this process's share of V, H, W, 3): z (V, P) of all processes, in one forward pass."""
    views = view(images, stream)
    with torch.autocast(views.device.type, torch.bfloat16, enabled=views.is_cuda):
        z = model(views.contiguous(memory_format=torch.channels_last))
    return gather(z)


def contrast(z: Tensor, temperature: float) -> tuple[Tensor, Metrics]:
    """The loss of embeddings (V, P), and the metrics with the loss among them."""
    similarities = cosine_similarities(z)
    loss = nt_xent(similarities, temperature)
    return loss, {"loss": loss.detach(), **contrastive_metrics(similarities.detach())}


def train_epoch(
    model: nn.Module,
    images: Rows | Tensor,
    batches: tuple[Tensor, ...],
    view: View,
    stream: Generator,
    temperature: float,
    optimizer: Optimizer,
    progress: tqdm,
) -> list[Metrics]:
    """One pass over the batches of indices; the metrics of its steps."""
    model.train()
    steps = []
    for batch, batch_images in zip(batches, loaded(images, batches, stream.device), strict=True):
        loss, metrics = contrast(embed(model, batch_images, view, stream), temperature)
        loss.backward()
        sum_gradients(model)
        optimizer.step()
        optimizer.zero_grad()
        steps.append(metrics)  # as tensors on the device: reading them here would wait for every step
        progress.update(len(batch))
    return steps


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    images: Rows | Tensor,
    batches: tuple[Tensor, ...],
    view: View,
    stream: Generator,
    temperature: float,
) -> dict[str, float]:
    """The same metrics without training, with BatchNorm's running statistics, and the health of the embeddings.

    In the first epochs these statistics lag behind the weights, which is why the held-out loss begins so high.
    """
    model.eval()
    embedded = [embed(model, each, view, stream) for each in loaded(images, batches, stream.device)]
    first, second = (torch.cat(views) for views in zip(*(z.float().chunk(2) for z in embedded), strict=True))
    # Of some of them where there are many: it is about pairs of images, whose number grows with the square.
    health = embedding_health(*(z[:HEALTH_IMAGES].cpu().numpy() for z in (first, second)))
    return mean_of([contrast(z, temperature)[1] for z in embedded]) | health


def mean_of(steps: list[Metrics]) -> dict[str, float]:
    return {name: torch.stack([step[name] for step in steps]).mean().item() for name in steps[0]}


def example_views(images: Tensor, view: View, stream: Generator) -> dict[str, Tensor]:
    """The images and two views of each, all (B, H, W, 3) uint8."""
    views = view(images.repeat(2, 1, 1, 1), stream).round().to(torch.uint8).permute(0, 2, 3, 1)
    first, second = views.chunk(2)
    return {"images": images, "first": first, "second": second}


if __name__ == "__main__":
    main()
