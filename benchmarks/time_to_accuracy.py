"""Training time and accuracy of the textbook's SimCLR, lightly's components and ours: does the speed cost quality?

    python -m benchmarks.time_to_accuracy IMAGES EPOCHS

All three train the same encoder from the same weights (with their own heads) on the first IMAGES images of
data/unlabelled.safetensors, with the same optimizer and schedule (params.yaml), one after the other. The same probes
evaluate their frozen features of the labelled images. The data are those of `dvc repro download` or of
`dvc exp run -S data=folder -S folder=...`.
"""

import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits
from torch import Generator, Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from torchvision.models import resnet18
from tqdm import tqdm

from benchmarks import lightly_simclr, textbook
from benchmarks.verify import processor
from stages.check import Params
from stages.features.extraction import extract
from stages.io.tensors import open_tensors, read_tensors
from stages.probes.logreg import ChosenC
from stages.probes.neighbours import Neighbours
from stages.probing.probe import Split, class_scores
from stages.probing.scores import interval, scores
from stages.runtime.arithmetic import prepare_torch
from stages.runtime.params import read_params, validated
from stages.simclr.augmentation import augment
from stages.simclr.encoder import Encoder
from stages.simclr.graph import graphed_on_gpu
from stages.simclr.model import SimCLR
from stages.simclr.training import TrainingStep, epoch_seed, train_epoch

DEVICE = textbook.DEVICE
PARAMS = validated(Params, read_params())

State = dict[str, Tensor]  # of an encoder, with torchvision's names


def main() -> None:
    try:
        count, epochs = map(int, sys.argv[1:])
    except ValueError:
        sys.exit("usage: python -m benchmarks.time_to_accuracy IMAGES EPOCHS")
    if PARAMS.stem != "imagenet":
        sys.exit(f"params.yaml: stem = {PARAMS.stem}: must be imagenet, the only stem of the other implementations")
    images = open_tensors(Path("data/unlabelled.safetensors"))[0]["images"][:count]
    labelled = read_tensors(Path("data/labelled.safetensors"))[0]
    start = read_tensors(Path("data/starting_weights.safetensors"))[0]
    print(f"{processor()}; {len(images)} images, {epochs} epochs; {date.today()}\n")
    print(f"| | minutes of training | logistic regression, first {PARAMS.first_classes} | nearest neighbours, all |")
    print("|---|---:|---:|---:|")
    print("| untrained | 0.0 |", probed(start, labelled))
    # Ours last, because it configures PyTorch and the allocator, and the others must not profit from that.
    for name, train in (("textbook", train_textbook), ("lightly's components", train_lightly), ("ours", train_ours)):
        torch.manual_seed(PARAMS.seed)
        began = time.perf_counter()
        state = train(images, start, epochs)
        print(f"| {name} | {(time.perf_counter() - began) / 60:.1f} |", probed(state, labelled), flush=True)


def run_epochs(optimizer: Optimizer, epochs: int, epoch: Callable[[int], object]) -> None:
    schedule = CosineAnnealingLR(optimizer, T_max=epochs, eta_min=PARAMS.lr / 50)
    for number in tqdm(range(1, epochs + 1), unit=" epochs"):
        epoch(number)
        schedule.step()


def adamw(model: nn.Module) -> AdamW:
    return AdamW(model.parameters(), lr=PARAMS.lr, weight_decay=PARAMS.weight_decay)


def train_textbook(images: Tensor, start: State, epochs: int) -> State:
    model = textbook.network()
    model.load_state_dict(
        {name: start[name] for name in model.state_dict() if name in start and "fc" not in name}, strict=False
    )
    opt = adamw(model)
    run_epochs(opt, epochs, lambda _: deque(textbook.training_steps(model, opt, images, PARAMS.batch_size), 0))
    return model.state_dict()


def train_lightly(images: Tensor, start: State, epochs: int) -> State:
    model = lightly_simclr.SimCLR()
    # The backbone has the children of a torchvision network in their order, except the last.
    torchvisions = (name for name in resnet18().state_dict() if not name.startswith("fc."))
    backbone = dict(zip(model.backbone.state_dict(), torchvisions, strict=True))
    model.backbone.load_state_dict({theirs: start[name] for theirs, name in backbone.items()})
    model.to(DEVICE)
    opt = adamw(model)
    run_epochs(opt, epochs, lambda _: deque(lightly_simclr.training_steps(model, opt, images, PARAMS.batch_size), 0))
    return {name: model.backbone.state_dict()[theirs] for theirs, name in backbone.items()}


def train_ours(images: Tensor, start: State, epochs: int) -> State:
    prepare_torch()
    model = SimCLR(PARAMS.backbone, PARAMS.stem, PARAMS.projection_dim)
    model.encoder.load_torchvision(start)
    model.to(DEVICE)
    view = partial(augment, **PARAMS.augment.model_dump())

    there = images.to(DEVICE)
    rng = Generator(DEVICE)
    optimizer = AdamW(model.parameters(), lr=PARAMS.lr, weight_decay=PARAMS.weight_decay, fused=True)
    step = graphed_on_gpu(TrainingStep(model, optimizer, view, PARAMS.temperature, rng))

    def epoch(number: int) -> None:
        rng.manual_seed(epoch_seed(PARAMS.seed, number))
        order = torch.randperm(len(there), generator=rng, device=DEVICE)
        whole = len(order) // PARAMS.batch_size * PARAMS.batch_size
        train_epoch(step, there, order[:whole].split(PARAMS.batch_size), tqdm(disable=True))

    run_epochs(optimizer, epochs, epoch)
    return model.encoder.state_dict()


def probed(state: State, labelled: dict[str, Tensor]) -> str:
    """Table cells: test accuracy of logistic regression on the first classes and of nearest neighbours on all classes.

    Each with its 95 % interval.
    """
    encoder = Encoder(PARAMS.backbone, PARAMS.stem)
    encoder.load_torchvision({name: tensor.cpu() for name, tensor in state.items()})
    train, test = (
        Split(extract(encoder, labelled[f"{part}_images"], DEVICE).all().numpy(), labelled[f"{part}_fine"].numpy())
        for part in ("train", "test")
    )
    first, first_test = train.first(PARAMS.first_classes), test.first(PARAMS.first_classes)
    fit = PARAMS.logreg
    logreg = ChosenC(fit.C, fit.max_iter, PARAMS.seed, fit.choice_images)
    jobs = ((logreg, first, first_test), (Neighbours(PARAMS.neighbours), train, test))
    cells = []
    with threadpool_limits(1):
        for probe, fitted, tested in jobs:
            probe.fit(fitted.x, fitted.y)
            accuracy = scores(class_scores(probe, tested.x), tested.y)["accuracy"]
            low, high = interval(accuracy, len(tested.y))
            cells.append(f"{100 * accuracy:.1f} % ({100 * low:.1f} to {100 * high:.1f})")
    return f"{' | '.join(cells)} |"


if __name__ == "__main__":
    main()
