"""Reproduces the committed results in a fresh clone and reports whether all bytes are the same: `make verify`."""

import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(["git", "clone", "--quiet", ROOT, name], check=True)
        committed = hashes(Path(name))
        # The fresh clone has no cache, so everything is computed.
        repro = [Path(sys.executable).with_name("dvc"), "repro", "--force"]
        subprocess.run(repro, cwd=name, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, check=True)
        found = hashes(Path(name))
    different = [path for path, md5 in committed.items() if found.get(path) != md5]
    if different:
        sys.exit(
            f"{len(different)} of {len(committed)} files have other bytes on {processor()}: {', '.join(different)}"
        )
    print(f"all {len(committed)} metrics, tables, pictures and models have the committed bytes on {processor()}")


def hashes(repository: Path) -> dict[str, str]:
    """The MD5 of every output in dvc.lock except the report, which contains the versions of Python and the packages."""
    lock: dict[str, Any] = YAML(typ="safe").load((repository / "dvc.lock").read_text(encoding="utf-8"))
    outs = (out for stage in lock["stages"].values() for out in stage["outs"])
    return {out["path"]: out["md5"] for out in outs if out["path"] != "report.html"}


def processor() -> str:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
