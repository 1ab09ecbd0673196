"""The cores and the memory that this process may use: the machine's, or fewer in a container (Linux's cgroups v2)."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([allowed, *(math.ceil(int(quota) / int(period)) for quota, period in _limits("cpu.max"))])


def memory() -> int:
    """Total bytes."""
    return min([psutil.virtual_memory().total, *(int(limit) for (limit,) in _limits("memory.max"))])


def free_memory() -> int:
    """Bytes. In a container: its limit minus the memory of this process, as its counter includes freeable caches."""
    return min(psutil.virtual_memory().available, memory() - psutil.Process().memory_info().rss)


def _limits(file: str) -> Iterator[list[str]]:
    """The fields of the file in the cgroup of this process, and in those above it, where they set a limit."""
    try:
        own = CGROUPS / Path("/proc/self/cgroup").read_text().partition("::/")[2].strip()
    except OSError:
        return
    for folder in (own, *own.parents):
        if folder.is_relative_to(CGROUPS) and (folder / file).is_file():
            fields = (folder / file).read_text().split()
            if fields[0] != "max":
                yield fields
