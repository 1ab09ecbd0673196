"""The inputs of a stage, as dvc.yaml lists them: code, data and parameters. A stage fails if they change while it runs.

DVC hashes the dependencies of a stage when its command has ended. Code that was edited in the meantime would be
recorded as what the result was made with, although it never ran. A stage that fails is not recorded.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from ruamel.yaml import YAML

from stages.files.params import load_params

IGNORED = ("__pycache__", ".DS_Store", ".*.tmp")  # as in .dvcignore


def fingerprints(stage: str) -> dict[str, str]:
    """MD5 of every file, as in dvc.lock, and the value of every parameter that dvc.yaml lists for a stage, by name.

    Of the user's folder of images, names, sizes and times instead: to read all of them twice could take minutes.
    """
    params = load_params().model_dump()
    listed = YAML(typ="safe").load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    prints = {f"params.yaml: {key}": json.dumps(params[key], sort_keys=True) for key in listed.get("params", [])}
    for dep in listed["deps"]:
        if dep == "${folder}":
            prints[params["folder"]] = _times(Path(params["folder"]))
        else:
            prints |= {str(file): md5(file) for file in _files(Path(dep))}
    return prints


def _files(path: Path) -> list[Path]:
    """The file, or those below the folder but for what .dvcignore names."""
    if not path.is_dir():
        return [path]
    ignored = {file for pattern in IGNORED for file in path.rglob(pattern)}
    files = (file for file in path.rglob("*") if file.is_file())
    return sorted(file for file in files if not ignored.intersection([file, *file.parents]))


def md5(file: Path) -> str:
    """As in dvc.lock. A file may be large, so it is read again only where its size or its time has changed."""
    try:
        stat = file.stat()
        return _md5(file, stat.st_ino, stat.st_size, stat.st_ctime_ns)
    except OSError as error:
        return f"unreadable: {error.strerror}"


@cache
def _md5(file: Path, *_: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "md5").hexdigest()


def _times(folder: Path) -> str:
    found = hashlib.md5()
    try:
        for place, subfolders, names in os.walk(folder):
            subfolders.sort()
            for name in sorted([*subfolders, *names]):
                stat = os.lstat(os.path.join(place, name))  # of a link itself: some lead nowhere or in circles
                found.update(json.dumps([place, name, stat.st_size, stat.st_mtime_ns]).encode())
    except OSError as error:  # a name longer than the system allows, or a file that disappears just now
        return f"unreadable: {error.strerror}"
    return found.hexdigest()


@contextmanager
def inputs_must_not_change(stage: str) -> Iterator[dict[str, str]]:
    """Gives the fingerprints of a stage, and exits where they are others when the block has ended well.

    Also before the block, where code was edited since the process began: Python may have imported it as it was before.
    """
    before = fingerprints(stage)
    started = process_start()
    # A time to come says nothing: clocks of other machines run ahead, and archives keep what was there.
    late = [name for name in before if name.endswith(".py") and started < Path(name).stat().st_mtime <= time.time()]
    if late:
        sys.exit(f"{', '.join(late)}: changed while the stage {stage} started; give the same command again")
    yield before
    after = fingerprints(stage)
    changed = [name for name in before | after if after.get(name) != before.get(name)]
    if changed:
        sys.exit(
            f"{', '.join(changed)}: changed while the stage {stage} ran, so its result is not recorded; "
            f"`dvc repro` runs it again as things are now"
        )


def process_start() -> float:
    """When this process began, in seconds since 1970, to a hundredth of a second; only Linux tells, elsewhere now."""
    if sys.platform != "linux":
        return time.time()
    after_name = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    ticks = int(after_name[19])  # starttime in man 5 proc_pid_stat
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + (ticks + 1) / os.sysconf("SC_CLK_TCK")
