"""Views per second of one process and of two with one thread each: `make bench` prints the table.

Strong scaling: all processes share the batch of params.yaml. Weak scaling: such a batch for each process. torchrun
starts this module again, with the batch size, for every row.
"""

import subprocess
import sys

import torch
import torch.distributed as dist

from benchmarks.bench import ROUNDS, rounded
from benchmarks.measures import PARAMS, Training
from stages.runtime.arithmetic import prepare_torch
from stages.simclr.distributed import processes, rank

PROCESSES = (1,) if torch.cuda.device_count() == 1 else (1, 2)
STEPS = 6


def main() -> None:
    if dist.is_torchelastic_launched():
        measure(int(sys.argv[1]))
        return
    header = "| processes | batch | views/s, median | lowest to highest | relative to one process |"
    print(f"{header}\n|---|---:|---:|---:|---:|")
    rows = {(count, size) for count in PROCESSES for size in (PARAMS.batch_size, count * PARAMS.batch_size)}
    results = {row: [] for row in sorted(rows)}
    for _ in range(ROUNDS):
        for row, speeds in results.items():
            speeds.append(views_per_second(*row))
    one = sorted(results[1, PARAMS.batch_size])[ROUNDS // 2]
    for (count, size), speeds in results.items():
        low, median, high = min(speeds), sorted(speeds)[ROUNDS // 2], max(speeds)
        print(f"| {count} | {size} | {rounded(median)} | {rounded(low)} to {rounded(high)} | {median / one:.2f} |")


def views_per_second(count: int, batch_size: int) -> float:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = [*torchrun, "-m", "benchmarks.scaling", str(batch_size)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure(batch_size: int) -> None:
    """Runs in each process; the first one prints the views per second of all processes."""
    torch.set_num_threads(1)
    prepare_torch()
    with processes():
        speed = Training(batch_size).views_per_second(STEPS)
        if rank() == 0:
            print(speed)


if __name__ == "__main__":
    main()
