"""The memory in a container."""

from pathlib import Path

import psutil
import pytest

from stages.runtime import machine


def test_limits_of_a_container_apply_to_all_groups_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the kernel's documentation of cgroups v2: bytes, or max."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    own = tmp_path / Path("/proc/self/cgroup").read_text().partition("::/")[2].strip()
    own.mkdir(parents=True, exist_ok=True)
    for limit, expected in (
        ("max", psutil.virtual_memory().available),
        (str(2**30), 2**30 - psutil.Process().memory_info().rss),
    ):
        (own / "memory.max").write_text(f"{limit}\n")
        assert machine.free_memory() == pytest.approx(expected, abs=2**28)
