"""Measures the speed on a GPU for benchmarks/README.md: `python -m benchmarks.gpu`, two minutes on an H100.

Times are the median of three rounds. The images are noise, because the time of a step does not depend on their content.
"""

import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.profiler import ProfilerActivity, profile

from benchmarks import measures, memory
from benchmarks.arithmetic import simclr_step_flop
from benchmarks.measures import DEVICE, PARAMS
from benchmarks.verify import processor
from stages.features.extraction import extract, folded
from stages.runtime.arithmetic import prepare_torch
from stages.simclr.checkpoint import Checkpoint
from stages.simclr.encoder import Encoder
from stages.simclr.model import SimCLR
from stages.simclr.monitoring import embedding_health

BATCHES = (256, 512, 1024, 4096)
KERNELS = {  # by substrings of the kernels' names; the first match counts
    "convolution, product": ("gemm", "conv", "cudnn", "xmma", "cutlass", "wgrad", "dgrad", "implicit", "nvjet"),
    "BatchNorm": ("batch_norm", "bn_", "batchnorm"),
    "AdamW": ("multi_tensor", "adam"),
    "pooling": ("pool",),
    "sum, softmax": ("reduce", "softmax", "nll"),
    "copy, cast, fill": ("copy", "memcpy", "memset", "fill", "cat"),
    "random numbers": ("distribution", "philox", "random"),
    "elementwise": ("",),
}


def main() -> None:
    if DEVICE.type != "cuda":
        sys.exit("there is no GPU")
    prepare_torch()
    machine = f"{torch.cuda.get_device_name()}; {processor()}, {os.cpu_count()} cores"
    print(f"{machine}; torch {version('torch')}; {date.today()}\n")
    rate = 1e9 * median(lambda: measures.gemm()["gemm"])
    print(f"A bfloat16 product of 8192 x 8192: {rate / 1e12:.0f} TFLOP/s.\n")
    steps(rate)
    profiles()
    extraction()
    other_work()
    print("\nlightly's components, views/s:", f"{measures.lightly_speed()['lightly']:,.0f}")


def steps(rate: float) -> None:
    print("| stem | batch | eager, ms | graph, ms | views/s | fraction of the matrix rate | peak memory, GB |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for stem in ("imagenet", "cifar"):
        for batch in BATCHES:
            eager, graphed = (step_seconds(stem, batch, graphed) for graphed in (False, True))
            fraction = simclr_step_flop(stem, PARAMS.projection_dim, batch) / graphed / rate
            gigabytes = torch.cuda.max_memory_reserved() / 1e9
            print(
                f"| {stem} | {batch} | {1e3 * eager:.2f} | {1e3 * graphed:.2f} | {2 * batch / graphed:,.0f} "
                f"| {fraction:.2f} | {gigabytes:.1f} |",
                flush=True,
            )


def step_seconds(stem: str, batch: int, graphed: bool) -> float:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    training = measures.Training(batch, memory.noise(50_000), stem=stem, graphed=graphed)
    count = max(5, 50 * 256 // batch)
    return median(lambda: training.seconds(count)) / count


def profiles(count: int = 20) -> None:
    """GPU time of one graphed step by kind of kernel."""
    for stem, batch in (("imagenet", 256), ("cifar", 512)):
        training = measures.Training(batch, memory.noise(8192), stem=stem)
        with profile(activities=[ProfilerActivity.CUDA]) as watched:
            training.seconds(count)
        milliseconds: Counter[str] = Counter()
        number: Counter[str] = Counter()
        for event in watched.events():
            if event.device_type != torch.autograd.DeviceType.CUDA or "Activity Buffer" in event.name:
                continue
            kind = next(kind for kind, words in KERNELS.items() if any(word in event.name.lower() for word in words))
            milliseconds[kind] += event.time_range.elapsed_us() / 1e3 / count
            number[kind] += 1
        print(f"\n| {stem}, batch {batch} | ms a step | kernels |\n|---|---:|---:|")
        for kind, spent in milliseconds.most_common():
            print(f"| {kind} | {spent:.2f} | {number[kind] / count:.0f} |")
        print(f"| all | {milliseconds.total():.2f} | {number.total() / count:.0f} |", flush=True)


def extraction(count: int = 50_000) -> None:
    """Images per second of `extract`, and of the same network in other precisions, with the errors of the features."""
    torch.manual_seed(0)
    images = memory.noise(count)
    encoder = Encoder("resnet18", "imagenet")
    exact = folded(encoder).double()
    with torch.inference_mode():
        expected = exact(images[:256].permute(0, 3, 1, 2).double())
    network = folded(encoder).to(DEVICE)
    there = images.to(DEVICE)

    @torch.inference_mode()
    def features(images: Tensor, dtype: torch.dtype) -> Tensor:
        found = []
        for batch in images.split(512):
            with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
                found.append(network(batch.permute(0, 3, 1, 2)).float())
        return torch.cat(found)

    print("\n| extraction | images/s | relative error |\n|---|---:|---:|")
    for name, tf32, dtype in (
        ("float32", False, torch.float32), ("TF32", True, torch.float32), ("bfloat16", True, torch.bfloat16)
    ):  # fmt: skip
        torch.backends.cudnn.allow_tf32 = tf32
        error = (features(there[:256], dtype).cpu() - expected).norm() / expected.norm()
        print(f"| {name} | {count / median_seconds(lambda d=dtype: features(there, d)):,.0f} | {error:.1e} |")
    torch.backends.cudnn.allow_tf32 = False
    seconds = median_seconds(lambda: extract(encoder, images, DEVICE).all())
    print(f"| `extract`, float32, including copies between host and GPU | {count / seconds:,.0f} | |", flush=True)


def other_work() -> None:
    """What an epoch waits for in addition to its steps."""
    model = SimCLR("resnet18", "imagenet", 128).to(DEVICE)
    optimizer = AdamW(model.parameters(), fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    schedule = CosineAnnealingLR(optimizer, T_max=25)
    checkpoint = Checkpoint(Path("x.state").resolve())
    z = torch.randn(2, 4096, 128, device=DEVICE)
    saved, written = [], []
    for _ in range(3):
        start = measures.now()
        checkpoint.save([], model=model, optimizer=optimizer, schedule=schedule)
        saved.append(time.perf_counter() - start)
        checkpoint.wait()
        written.append(time.perf_counter() - start)
    checkpoint.path.unlink()
    print("\n| once per epoch | ms |\n|---|---:|")
    print(f"| copying the checkpoint | {1e3 * statistics.median(saved):.0f} |")
    print(f"| writing it, during the next epoch | {1e3 * statistics.median(written):.0f} |")
    for count in (1024, 4096):
        seconds = median_seconds(lambda n=count: embedding_health(z[0, :n], z[1, :n]))
        print(f"| health of {count} embeddings | {1e3 * seconds:.0f} |", flush=True)


def median(measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(3))


def median_seconds(work: Callable[[], object]) -> float:
    work()
    return median(lambda: measures.seconds_of(work))


if __name__ == "__main__":
    main()
