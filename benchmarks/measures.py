"""The measurements of `bench.py`, one function each: our training and extraction, and the alternatives."""

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import torch
import torchvision
from torch import Generator, Tensor
from torch.optim import SGD, AdamW
from tqdm import tqdm

from benchmarks import lightly_simclr, memory, textbook
from stages.check import Params
from stages.download import starting_weights
from stages.features.extraction import extract
from stages.images.sample import generate_sample
from stages.io.tensors import write_tensors
from stages.runtime.params import read_params, validated
from stages.simclr.augmentation import augment
from stages.simclr.distributed import synchronise_batch_norm
from stages.simclr.encoder import Encoder
from stages.simclr.graph import WARM_UP_STEPS, graphed_on_gpu
from stages.simclr.model import SimCLR
from stages.simclr.training import TrainingStep, View, train_epoch

PARTS = ("augmentation", "forward", "backward", "optimizer")
DEVICE = textbook.DEVICE
PARAMS = validated(Params, read_params(memory.ROOT / "params.yaml"))
OURS = partial(augment, **PARAMS.augment.model_dump())

BATCHES = (128, 256, 512)
SIDES = (32, 96, 224)  # pixels, with small batches
STEPS = (3, 6, 12)

Figures = dict[str, float]


@cache
def sample() -> tuple[Tensor, Tensor]:
    """Images for pretraining, and training images for the probes."""
    sample = generate_sample(PARAMS.seed, 32)
    assert sample.unlabelled
    return sample.unlabelled.all(), sample.train.images.all()


def textbook_speed() -> Figures:
    model = textbook.network()
    optimizer = AdamW(model.parameters(), lr=PARAMS.lr, weight_decay=PARAMS.weight_decay)
    return {"textbook": views_per_second(textbook.training_steps(model, optimizer, loader_images(), 256), 256)}


def lightly_speed() -> Figures:
    model = lightly_simclr.SimCLR().to(DEVICE)
    optimizer = SGD(model.parameters(), lr=0.06)
    return {"lightly": views_per_second(lightly_simclr.training_steps(model, optimizer, loader_images(), 256), 256)}


def loader_images() -> Tensor:
    """On a GPU enough images for more batches than the workers of a loader prefetch."""
    return memory.noise(256 * 5 * textbook.PREFETCHED) if DEVICE.type == "cuda" else sample()[0]


def views_per_second(steps: Iterator[None], batch_size: int) -> float:
    """Measured after the first step, in which the loader's workers start; on a GPU, after the prefetched batches."""
    skipped, measured = (textbook.PREFETCHED, 3 * textbook.PREFETCHED) if DEVICE.type == "cuda" else (1, 2)
    for _ in range(skipped):
        next(steps)
    start = now()
    for _ in range(measured):
        next(steps)
    return 2 * batch_size * measured / (now() - start)


def now() -> float:
    """Seconds, after the GPU has finished its work."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Training:
    """Our training, warmed up; by default on the sample. graphed: whether a GPU runs the step as a graph."""

    def __init__(
        self,
        batch_size: int = 256,
        images: Tensor | None = None,
        view: View = OURS,
        stem: str = PARAMS.stem,
        graphed: bool = True,
    ) -> None:
        self.batch_size = batch_size
        self.images = (sample()[0] if images is None else images).to(DEVICE)
        torch.manual_seed(PARAMS.seed)
        self.model = SimCLR(PARAMS.backbone, stem, PARAMS.projection_dim).to(DEVICE)
        synchronise_batch_norm(self.model)
        self.optimizer = AdamW(self.model.parameters(), lr=PARAMS.lr, weight_decay=PARAMS.weight_decay, fused=True)
        self.rng = Generator(DEVICE).manual_seed(PARAMS.seed)
        step = TrainingStep(self.model, self.optimizer, view, PARAMS.temperature, self.rng)
        self.step = graphed_on_gpu(step) if graphed else step
        self.seconds(WARM_UP_STEPS + 2 if DEVICE.type == "cuda" else 1)

    def seconds(self, steps: int) -> float:
        """The time of this number of steps of `train_epoch`."""
        size = (steps, self.batch_size)
        batches = torch.randint(len(self.images), size, generator=self.rng, device=DEVICE).unbind()
        return seconds_of(lambda: train_epoch(self.step, self.images, batches, tqdm(disable=True)))

    def views_per_second(self, steps: int) -> float:
        return 2 * self.batch_size * steps / self.seconds(steps)


def step(steps: int = 8) -> Figures:
    """Our training, and the milliseconds of a step's parts, measured by hooks and without a CUDA graph."""
    parts = dict.fromkeys(PARTS, 0.0)
    last = 0.0

    def lap(name: str | None, *_: object) -> None:
        """Adds the time since the last lap to the part `name`."""
        nonlocal last
        moment = now()
        if name:
            parts[name] += 1e3 * (moment - last) / steps
        last = moment

    def view(given: Tensor, rng: Generator) -> Tensor:
        lap(None)
        views = OURS(given, rng)
        lap("augmentation")
        return views

    training = Training(view=view, graphed=False)
    parts.update(dict.fromkeys(parts, 0.0))  # without the steps that warmed up
    training.model.register_forward_hook(partial(lap, "forward"))
    training.optimizer.register_step_pre_hook(partial(lap, "backward"))  # with the loss
    training.optimizer.register_step_post_hook(partial(lap, "optimizer"))
    training.seconds(steps)
    speed = Training().views_per_second(steps)
    return {"ours": speed, "step": 1e3 * 2 * 256 / speed} | parts


def kornia_speed() -> Figures:
    """Our training with the same views from kornia. Without a CUDA graph, because kornia draws on the host."""
    from kornia import augmentation as kornia  # nothing else needs it

    s = PARAMS.augment
    sequence = kornia.AugmentationSequential(
        kornia.RandomResizedCrop((32, 32), scale=(s.min_area, 1.0)),
        kornia.RandomHorizontalFlip(p=0.5),
        kornia.ColorJitter(0.8 * s.jitter, 0.8 * s.jitter, 0.8 * s.jitter, 0.2 * s.jitter, p=0.8),
        kornia.RandomGrayscale(p=s.grayscale),
        kornia.RandomGaussianBlur((3, 3), (0.1, 2.0), p=s.blur),
    )

    def view(images: Tensor, _: Generator) -> Tensor:
        return 255 * sequence(images.permute(0, 3, 1, 2).float() / 255)

    return {"kornia": Training(view=view, graphed=False).views_per_second(8)}


def batch_sizes() -> Figures:
    return {f"batch {size}": Training(size).views_per_second(2048 // size) for size in BATCHES}


def image_counts() -> Figures:
    return {f"{steps} steps": Training().seconds(steps) for steps in STEPS}


def image_sizes() -> Figures:
    return {f"side {side}": Training(32, memory.noise(256, side)).views_per_second(4) for side in SIDES}


def extraction() -> Figures:
    """Images per second of our extraction and of torchvision's network in the same batches."""
    _, images = sample()
    encoder, stock = Encoder(PARAMS.backbone, PARAMS.stem), torchvision.models.resnet18().eval().to(DEVICE)

    @torch.inference_mode()
    def stock_extract() -> None:
        for batch in images.split(512):
            stock(batch.to(DEVICE).permute(0, 3, 1, 2).contiguous() / 255).cpu()

    return {
        "stock extraction": len(images) / seconds_of(stock_extract),
        "extraction": len(images) / seconds_of(lambda: extract(encoder, images, DEVICE).all()),
    }


def gemm(side: int = 2048, times: int = 5) -> Figures:
    """GFLOP/s of a float32 matrix product with MKL (PyTorch) or OpenBLAS (NumPy), whichever is faster.

    On a GPU in bfloat16, like our step, and larger, so that it fills the GPU.
    """
    if DEVICE.type == "cuda":
        a = torch.rand(4 * side, 4 * side, device=DEVICE, dtype=torch.bfloat16)
        seconds_of(lambda: a @ a)
        return {"gemm": times * 2e-9 * (4 * side) ** 3 / seconds_of(lambda: [a @ a for _ in range(times)])}
    a = torch.rand(side, side)
    best = min(seconds_of(partial(lambda a: [a @ a for _ in range(times)], given)) for given in (a, a.numpy()))
    return {"gemm": times * 2e-9 * side**3 / best}


def seconds_of(work: Callable[[], object]) -> float:
    start = now()
    work()
    return now() - start


def whole_stage(images: int = 50_000) -> tuple[float, float]:
    """One epoch of `python -m stages pretrain` in a separate process: minutes, and peak memory in GB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        memory.set_up(folder, {"epochs": 1})
        write_tensors(folder / "data/unlabelled.safetensors", {"images": memory.noise(images)})
        write_tensors(
            folder / "data/starting_weights.safetensors", starting_weights(PARAMS.backbone, None, PARAMS.seed)
        )
        seconds, gigabytes = memory.run_stage("pretrain", folder)
        return seconds / 60, gigabytes
