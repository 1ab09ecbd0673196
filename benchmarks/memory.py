"""Peak memory of the stages that read the data: `python -m benchmarks.memory` prints tables for benchmarks/README.md.

First on data of CIFAR's size (50,000 images for pretraining; 50,000 and 10,000 for the probes of 100 classes) and on
four times as many. Then on images for pretraining that are larger than this machine's memory. With few iterations,
because they change the time but not the memory: forty minutes on 2 cores. TMPDIR needs space for twice the memory.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image
from ruamel.yaml import YAML

from stages.io.tensors import write_tensors

ROOT = Path(__file__).parent.parent
CLASSES = 100
TRAIN, TEST = 500, 100  # images of each class
TIMES = (1, 4)
SHORT_RUN = {"epochs": 1, "logreg": {"max_iter": 3, "labels_per_class": []}, "linear": {"epochs": 1}}
LARGE_SIDE = 224  # pixels
LARGE_BATCH = 32  # fits into memory with large images
SECONDS = 300  # of training on large images


def main() -> None:
    peaks = {times: of_all_stages(times) for times in TIMES}
    print(f"| stage | {' | '.join(f'{times} x CIFAR, GB' for times in TIMES)} |\n|---|{'---:|' * len(TIMES)}")
    for stage in peaks[1]:
        print(f"| `{stage}` | {' | '.join(f'{peaks[times][stage]:.2f}' for times in TIMES)} |", flush=True)
    larger_than_memory()


def of_all_stages(times: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        set_up(folder, {"data": "folder", "folder": "images", **SHORT_RUN})
        for part, count in (("train", TRAIN), ("test", TEST)):
            for label in range(CLASSES):
                link_images(folder / "images" / part / f"{label:02}", times * count)
        peaks = {stage: run_stage(stage, folder)[1] for stage in ("check", "download")}
        write_noise(folder / "data", times)  # embeddings of equal images would collapse
        later = ("pretrain", "extract-features", "fit-logreg", "fit-linear", "fit-neighbours", "report")
        return peaks | {stage: run_stage(stage, folder)[1] for stage in later}


def larger_than_memory() -> None:
    """`download` writes more images than fit into memory, and `train_epoch` reads random batches of them."""
    memory = psutil.virtual_memory().total
    count = int(1.05 * memory / (LARGE_SIDE**2 * 3))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = {"image_size": LARGE_SIDE, "first_classes": 2, "batch_size": LARGE_BATCH}
        set_up(folder, {"data": "folder", "folder": "images", **size})
        for place in ("train/a", "train/b", "test/a", "test/b"):
            link_images(folder / "images" / place, 2)
        link_images(folder / "images/unlabeled", count)
        seconds, peak = run_stage("download", folder)
        size = (folder / "data/unlabelled.safetensors").stat().st_size
        print(f"\n{count:,} images of {LARGE_SIDE}x{LARGE_SIDE}, {size / 1e9:.1f} GB; memory {memory / 1e9:.1f} GB\n")
        print("| | seconds | peak memory, GB |\n|---|---:|---:|")
        print(f"| `download` | {seconds:.0f} | {peak:.2f} |", flush=True)
        _, peak = run_stage("pretrain", folder, SECONDS)
        print(f"| the first {SECONDS} seconds of `pretrain`, batch {LARGE_BATCH} | {SECONDS} | {peak:.2f} |")


def set_up(folder: Path, changes: dict[str, Any]) -> None:
    """Prepares a folder for the stages, with the committed parameters except for `changes`."""
    params = YAML().load(ROOT / "params.yaml")
    for key, value in changes.items():
        params[key] = {**params[key], **value} if isinstance(value, dict) else value
    YAML().dump(params, folder / "params.yaml")
    for name in ("stages", "dvc.yaml"):
        (folder / name).symlink_to(ROOT / name)


def run_stage(stage: str, folder: Path, limit: int = 0) -> tuple[float, float]:
    """Runs the stage in a separate process: seconds, and peak memory in GB.

    limit: the stage is stopped after this number of seconds, as by Ctrl-C.
    """
    # The process reports its own peak, because the kernel's value for a child includes its parent's memory.
    script = f"""
import contextlib, runpy, signal, sys
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
signal.alarm({limit})
with contextlib.suppress({"SystemExit" if limit else ""}):
    sys.argv = ["stages", "{stage}"]
    runpy.run_module("stages", run_name="__main__", alter_sys=True)
print(open("/proc/self/status").read())
"""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - start
    kilobytes = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert kilobytes
    return seconds, int(kilobytes[1]) * 1024 / 1e9


def link_images(root: Path, count: int) -> None:
    """The same picture under `count` names, as hard links. A file can have 65,000 of them on ext4."""
    root.mkdir(parents=True)
    picture = root / ".picture.png"
    for number in range(count):
        if number % 50_000 == 0:
            picture.unlink(missing_ok=True)
            Image.new("RGB", (32, 32), "gray").save(picture)
        os.link(picture, root / f"{number}.png")


def write_noise(data: Path, times: int = 1) -> None:
    tensors = {}
    for part, count in (("train", times * TRAIN), ("test", times * TEST)):
        fine = torch.arange(CLASSES).repeat_interleave(count)
        tensors |= {f"{part}_images": noise(len(fine)), f"{part}_fine": fine, f"{part}_coarse": fine // 5}
    tensors |= {
        f"test_{what}": torch.zeros(CLASSES * times * TEST, dtype=torch.bool) for what in ("seen", "unlabelled")
    }
    names = {"fine_names": [str(n) for n in range(CLASSES)], "coarse_names": [str(n) for n in range(CLASSES // 5)]}
    write_tensors(data / "labelled.safetensors", tensors, names)
    write_tensors(data / "unlabelled.safetensors", {"images": noise(CLASSES * times * TRAIN)})


def noise(count: int, side: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8)


if __name__ == "__main__":
    main()
