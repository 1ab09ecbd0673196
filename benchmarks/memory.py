"""Peak memory of every stage on data of CIFAR's size: `python -m benchmarks.memory` prints the table of
benchmarks/README.md.

50,000 images for pretraining, 50,000 and 10,000 for the probes of 100 classes. Few iterations, because they change the
time and not the memory: ten minutes on 2 cores.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from ruamel.yaml import YAML

from stages.files.tensors import write_tensors

ROOT = Path(__file__).parent.parent
CLASSES = 100
COUNTS = {"train": 500, "test": 100}  # of each class
FEW = {"epochs": 1, "logreg": {"max_iter": 3, "labels_per_class": []}, "linear": {"epochs": 1}}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        set_up(folder, {"data": "folder", **FEW})
        link_images(folder / "images")
        print("| stage | peak memory, GB |\n|---|---:|")
        for stage in ("check", "download"):
            show(stage, folder)
        write_noise(folder / "data")  # equal images would collapse
        for stage in ("pretrain", "extract-features", "fit-logreg", "report"):
            show(stage, folder)


def show(stage: str, folder: Path) -> None:
    print(f"| `{stage}` | {run_stage(stage, folder)[1]:.2f} |", flush=True)


def set_up(folder: Path, changes: dict[str, Any]) -> None:
    """A folder in which the stages run, with the committed parameters but for some."""
    params = YAML().load(ROOT / "params.yaml")
    for key, value in changes.items():
        params[key] = {**params[key], **value} if isinstance(value, dict) else value
    YAML().dump(params, folder / "params.yaml")
    for name in ("stages", "dvc.yaml"):
        (folder / name).symlink_to(ROOT / name)


def run_stage(stage: str, folder: Path) -> tuple[float, float]:
    """`python -m` the stage in a process of its own: seconds, and peak memory in GB."""
    # The stage says itself what its peak was: the kernel's account of a child begins with its parent's memory.
    module = f"stages.{stage.replace('-', '_')}"
    script = f"import runpy; runpy.run_module('{module}', run_name='__main__'); print(open('/proc/self/status').read())"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - start
    kilobytes = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert kilobytes
    return seconds, int(kilobytes[1]) * 1024 / 1e9


def link_images(root: Path) -> None:
    """The same picture under as many names as there are images."""
    root.mkdir()
    picture = root / ".picture.png"
    Image.new("RGB", (32, 32), "gray").save(picture)
    for part, count in COUNTS.items():
        for label in range(CLASSES):
            (root / part / f"{label:02}").mkdir(parents=True)
            for number in range(count):
                os.link(picture, root / part / f"{label:02}" / f"{number}.png")


def write_noise(data: Path) -> None:
    tensors = {}
    for part, count in COUNTS.items():
        fine = torch.arange(CLASSES).repeat_interleave(count)
        tensors |= {f"{part}_images": noise(len(fine)), f"{part}_fine": fine, f"{part}_coarse": fine // 5}
    tensors["test_seen"] = torch.zeros(CLASSES * COUNTS["test"], dtype=torch.bool)
    names = {"fine_names": [str(n) for n in range(CLASSES)], "coarse_names": [str(n) for n in range(CLASSES // 5)]}
    write_tensors(data / "labelled.safetensors", tensors, names)
    write_tensors(data / "unlabelled.safetensors", {"images": noise(CLASSES * COUNTS["train"])})


def noise(count: int, side: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8)


if __name__ == "__main__":
    main()
