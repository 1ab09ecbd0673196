"""Stage `pretrain`: SimCLR (Chen et al. 2020, algorithm 1) on the unlabelled images.

Writes both encoders without the head. The table and the metrics are updated after every epoch.

Shapes: B images of a batch, V = 2B views, P numbers of a projection z.
"""

from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Generator, Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from stages.io.tensors import FORMAT, open_tensors, read_tensors, write_tensors
from stages.io.writing import require_room, write_metrics, write_table
from stages.runtime.arithmetic import prepare_torch
from stages.runtime.errors import UserError
from stages.runtime.inputs import fingerprints, inputs_must_not_change, read_pipeline
from stages.runtime.progress import progress_bar
from stages.simclr.augmentation import augment
from stages.simclr.checkpoint import Checkpoint, History, resumable
from stages.simclr.distributed import must_agree, processes, rank, synchronise_batch_norm, world_size
from stages.simclr.graph import graphed_on_gpu
from stages.simclr.model import SimCLR
from stages.simclr.monitoring import find_problem
from stages.simclr.params import PretrainParams as Params
from stages.simclr.training import TrainingStep, View, epoch_seed, evaluate, mean_of, split, to_gpu, train_epoch

SHOWN_IMAGES = 8


def main(params: Params) -> None:
    prepare_torch()
    stage = read_pipeline()["pretrain"]
    inputs = fingerprints(stage)
    with processes() as device:
        inputs |= {"torch": torch.__version__, "device": device.type, "processes": str(world_size())}
        must_agree(inputs)
        if params.batch_size % world_size():
            raise UserError(
                f"params.yaml: batch_size = {params.batch_size}: is not divisible by the {world_size()} processes"
            )
        if rank() == 0:
            print(f"training on {torch.cuda.get_device_name(device) if device.type == 'cuda' else 'the CPU'}")
        # Checked here, too, because a run whose inputs changed must keep its checkpoint.
        with resumable(inputs) as checkpoint, inputs_must_not_change("pretrain", stage):
            pretrain(params, device, checkpoint)


def pretrain(params: Params, device: torch.device, checkpoint: Checkpoint) -> None:
    torch.manual_seed(params.seed)
    first = rank() == 0  # the process that writes

    def fixed_rng() -> Generator:  # for draws that are the same in every epoch
        return Generator(device).manual_seed(epoch_seed(params.seed, 0))

    tensors, origin = open_tensors(Path("data/unlabelled.safetensors"))
    stored = tensors["images"]
    train, held_out = split(len(stored), params.batch_size, fixed_rng())
    if not len(train):
        raise UserError(
            f"params.yaml: batch_size = {params.batch_size}: {len(stored)} unlabelled images do not fill two batches "
            "(one for training, one held out); use a smaller batch or add images"
        )
    view = partial(augment, **params.augment.model_dump())

    model = SimCLR(params.backbone, params.stem, params.projection_dim)
    model.encoder.load_torchvision(read_tensors(Path("data/starting_weights.safetensors"))[0])
    metadata = {
        "format": FORMAT,
        "architecture": f"torchvision's {params.backbone} without its classifier, under its parameter names",
        "backbone": params.backbone,
        "stem": params.stem,
        "input": "RGB in [0, 1]: the square in the middle of an image, scaled to image_size",
        "image_size": stored.shape[1],
        "features": model.encoder.features,
        **origin,
    }
    # Two encoders and their copies in DVC's cache; two checkpoints (one replaces the other) of three times the weights
    # of the encoder and the projection head.
    size, with_head = (sum(each.nbytes for each in part.state_dict().values()) for part in (model.encoder, model))
    if first:
        for place in (Path("models"), checkpoint.path):
            require_room(place, 4 * size + 6 * with_head)
        write_tensors(Path("models/initial.safetensors"), model.encoder.state_dict(), metadata)
    model.to(device)
    synchronise_batch_norm(model)
    optimizer = AdamW(model.parameters(), lr=params.lr, weight_decay=params.weight_decay, fused=True)
    # It reaches lr / 50 after the last epoch; of 25 epochs, the last trains with lr / 42.
    schedule = CosineAnnealingLR(optimizer, T_max=params.epochs, eta_min=params.lr / 50)

    history = checkpoint.restore(model=model, optimizer=optimizer, schedule=schedule)
    if first:
        publish(history)
    rng = Generator(device)  # seeded again for every epoch, so the checkpoint does not need its state
    step = graphed_on_gpu(TrainingStep(model, optimizer, view, params.temperature, rng))
    images = to_gpu(stored, device)
    done, total = (epochs * len(train) for epochs in (len(history), params.epochs))
    with progress_bar("pretraining", total, "images", done, silent=not first) as progress:
        for epoch in range(len(history) + 1, params.epochs + 1):
            rng.manual_seed(epoch_seed(params.seed, epoch))
            shuffled = train[torch.randperm(len(train), generator=rng, device=device)]
            steps = train_epoch(step, images, shuffled.split(params.batch_size), progress)
            # The same views of the held-out images after every epoch, so that only the model changes the curve.
            held_out_batches = held_out.split(params.batch_size)
            scored = evaluate(model, images, held_out_batches, view, fixed_rng(), params.temperature)
            if problem := find_problem(steps, scored, images, held_out[: params.batch_size]):
                checkpoint.wait()
                kept = f"; the checkpoint of epoch {checkpoint.epochs} is kept" if first and checkpoint.epochs else ""
                raise UserError(f"epoch {epoch}, {problem}{kept}")
            fitted, lr = mean_of(steps), float(schedule.get_last_lr()[0])
            history.append({"epoch": epoch, "lr": lr, "train": fitted, "heldout": scored})
            schedule.step()
            if first:
                checkpoint.save(history, model=model, optimizer=optimizer, schedule=schedule)
                publish(history)
                progress.write(
                    f"epoch {epoch}/{params.epochs}: loss {fitted['loss']:.3f}, held-out {scored['loss']:.3f}; "
                    f"top-1 {fitted['top1']:.1%}, held-out {scored['top1']:.1%}"
                )

    if not first:
        return
    training = {"training": params.model_dump()}
    write_tensors(Path("models/simclr.safetensors"), model.encoder.state_dict(), metadata | training)
    shown = images[train[:SHOWN_IMAGES]].to(device)
    write_tensors(Path("data/views.safetensors"), example_views(shown, view, fixed_rng()))
    # The disk may be full by now, and DVC copies the encoders to its cache only after the checkpoint is deleted.
    require_room(checkpoint.path, 3 * size)


def publish(history: History) -> None:
    """Writes the table and metrics of the epochs so far, for `dvc plots` and `dvc exp show` during training."""
    if not history:
        return
    rows = [
        {"epoch": epoch["epoch"], "split": split, "lr": epoch["lr"], **epoch[split]}
        for epoch in history
        for split in ("train", "heldout")
    ]
    write_table(Path("plots/data/pretrain.csv"), pd.DataFrame(rows))
    losses = {f"{split}_loss": history[-1][split]["loss"] for split in ("train", "heldout")}
    write_metrics(Path("metrics/pretrain.json"), losses)


def example_views(images: Tensor, view: View, rng: Generator) -> dict[str, Tensor]:
    """The images and two views of each, all (B, H, W, 3) uint8."""
    views = view(images.repeat(2, 1, 1, 1), rng).round().to(torch.uint8).permute(0, 2, 3, 1)
    first, second = views.chunk(2)
    return {"images": images, "first": first, "second": second}
