"""Measures the speed: `make bench` prints the table of benchmarks/README.md.

Every row except the whole stage is measured once per round, so that a slowdown of the machine affects all rows; the
table has the median, the lowest and the highest value over the rounds. The images are those of the sample, or
noise if other sizes or numbers are needed: the time of a step does not depend on their content. All networks run on the
GPU if there is one.
"""

import multiprocessing
import os
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from importlib.metadata import version

import torch
from tqdm import tqdm

from benchmarks import measures
from benchmarks.arithmetic import simclr_step_flop
from benchmarks.measures import BATCHES, DEVICE, PARAMS, PARTS, SIDES, STEPS, Figures
from benchmarks.textbook import WORKERS
from benchmarks.verify import processor
from stages.runtime.arithmetic import prepare_torch

ROUNDS = 3


def main() -> None:
    stock_measures = measures.gemm, measures.textbook_speed, measures.lightly_speed, measures.extraction
    our_measures = (
        measures.step, measures.kornia_speed, measures.batch_sizes, measures.image_counts, measures.image_sizes
    )  # fmt: skip
    results: dict[str, list[float]] = {}
    # Two processes, because the stage configures PyTorch and the allocator, and the others must not profit from that.
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(1, spawn) as stock,
        ProcessPoolExecutor(1, spawn, initializer=prepare_torch) as ours,
    ):
        for _ in tqdm(range(ROUNDS), unit=" rounds"):
            figures: Figures = {}
            for pool, measured in ((stock, stock_measures), (ours, our_measures)):
                for measure in measured:
                    figures |= pool.submit(measure).result()
            flop_per_view = simclr_step_flop(PARAMS.stem, PARAMS.projection_dim, 256) / 512
            figures["bound"] = figures["gemm"] * 1e9 / flop_per_view
            for name, value in figures.items():
                results.setdefault(name, []).append(value)
    minutes, gigabytes = measures.whole_stage()

    machine = f"{processor()}, {len(os.sched_getaffinity(0))} cores, {torch.backends.cpu.get_cpu_capability()}"
    if DEVICE.type == "cuda":
        machine = f"{torch.cuda.get_device_name()}; {machine}"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightly", "kornia"))
    print(f"{machine}; {versions}; {date.today()}. Median of {ROUNDS} rounds, lowest to highest.\n")
    print("| | median | lowest to highest | ratio |\n|---|---:|---:|---:|")
    for label, name, *references in rows():
        print(f"| {label} | {' | '.join(cells(results, name, references))} |")
    print(f"| whole stage, one epoch of 50,000 images, minutes | {minutes:.1f} | | |")
    print(f"| - its peak memory, GB | {gigabytes:.2f} | | |")


def rows() -> Iterator[tuple[str, ...]]:
    """For each row of the table: its label, the name of its figure, and the names of the figures to compare with."""
    yield f"pretraining, views/s: textbook, {WORKERS} workers", "textbook"
    yield f"- lightly's components, {WORKERS} workers", "lightly", "textbook"
    yield "- **ours**", "ours", "textbook", "lightly", "bound"
    yield "- ours with kornia's augmentation", "kornia", "ours"
    yield "our step, ms", "step"
    for part in PARTS:
        yield f"- {part}", part, "step"
    for size in BATCHES:
        yield f"ours at batch {size}, views/s", f"batch {size}", f"batch {BATCHES[0]}"
    for steps in STEPS:
        yield f"ours, s for {256 * steps} images", f"{steps} steps", f"{STEPS[0]} steps"
    for side in SIDES:
        yield f"ours at {side}x{side} and batch 32, views/s", f"side {side}", f"side {SIDES[0]}"
    yield "extraction, images/s: torchvision's network", "stock extraction"
    yield "- **ours**", "extraction", "stock extraction"
    yield "matrix product, GFLOP/s", "gemm"
    yield "- views/s at this speed (the bound)", "bound"


def cells(results: dict[str, list[float]], name: str, references: list[str]) -> tuple[str, str, str]:
    values = results[name]
    # Ratios within a round, because a slowdown of the machine affects both values.
    ratios = {
        reference: statistics.median(value / other for value, other in zip(values, results[reference], strict=True))
        for reference in references
    }
    return (
        rounded(statistics.median(values)),
        f"{rounded(min(values))} to {rounded(max(values))}",
        ", ".join(f"{ratio:.2f} x {reference}" for reference, ratio in ratios.items()),
    )


def rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
