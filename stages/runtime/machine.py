"""The memory that this process may still use: the machine's, or less in a container (Linux's cgroups v2)."""

from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Bytes: the least that the machine, this process's cgroup and those above it allow.

    Of a cgroup, its limit minus the memory of this process is free; its own counter includes caches.
    """
    try:
        own = CGROUPS / Path("/proc/self/cgroup").read_text().partition("::/")[2].strip()
    except OSError:  # not on Linux
        own = CGROUPS
    files = [folder / "memory.max" for folder in (own, *own.parents) if folder.is_relative_to(CGROUPS)]
    limits = [file.read_text().strip() for file in files if file.is_file()]
    used = psutil.Process().memory_info().rss
    return min([psutil.virtual_memory().available, *(int(limit) - used for limit in limits if limit != "max")])
