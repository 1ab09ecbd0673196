"""The cores and the memory in a container."""

import os
from pathlib import Path

import psutil
import pytest

from stages.runtime import machine


def test_limits_of_a_container_apply_to_all_groups_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the kernel's documentation of cgroups v2: quota and period in microseconds, bytes, or max."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    total = psutil.virtual_memory().total
    assert (machine.cores(), machine.memory()) == (64, total)
    own = tmp_path / Path("/proc/self/cgroup").read_text().partition("::/")[2].strip()
    own.mkdir(parents=True, exist_ok=True)
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    (own / "memory.max").write_text("max\n")
    assert (machine.cores(), machine.memory()) == (3, total)
    (own / "memory.max").write_text(f"{2**30}\n")
    used = psutil.Process().memory_info().rss
    assert (machine.memory(), machine.free_memory()) == (2**30, pytest.approx(2**30 - used, abs=2**25))
