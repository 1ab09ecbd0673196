"""The memory that this process may use: the machine's, or less in a container (Linux's cgroups v2)."""

from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")


def memory() -> int:
    """Total bytes: the lowest limit of the machine, of this process's cgroup and of those above it."""
    try:
        own = CGROUPS / Path("/proc/self/cgroup").read_text().partition("::/")[2].strip()
    except OSError:  # not on Linux
        own = CGROUPS
    files = [folder / "memory.max" for folder in (own, *own.parents) if folder.is_relative_to(CGROUPS)]
    limits = [file.read_text().strip() for file in files if file.is_file()]
    return min([psutil.virtual_memory().total, *(int(limit) for limit in limits if limit != "max")])


def free_memory() -> int:
    """Bytes. In a container: its limit minus the memory of this process; its own counter includes caches."""
    return min(psutil.virtual_memory().available, memory() - psutil.Process().memory_info().rss)
