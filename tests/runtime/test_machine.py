"""The memory in a container."""

from pathlib import Path

import psutil
import pytest

from stages.runtime import machine


def test_limits_of_a_container_apply_to_all_groups_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the kernel's documentation of cgroups v2: bytes, or max."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    total = psutil.virtual_memory().total
    assert machine.memory() == total
    own = tmp_path / Path("/proc/self/cgroup").read_text().partition("::/")[2].strip()
    own.mkdir(parents=True, exist_ok=True)
    (own / "memory.max").write_text("max\n")
    assert machine.memory() == total
    (own / "memory.max").write_text(f"{2**30}\n")
    used = psutil.Process().memory_info().rss
    assert (machine.memory(), machine.free_memory()) == (2**30, pytest.approx(2**30 - used, abs=2**25))
