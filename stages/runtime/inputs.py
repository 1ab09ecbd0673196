"""The inputs of a stage, as dvc.yaml lists them: code, data and parameters. A stage fails if they change while it runs.

DVC hashes a stage's dependencies after its command has ended. If code was edited meanwhile, DVC would record the new
code, although the old code made the result. A stage that fails is not recorded.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.runtime.errors import UserError
from stages.runtime.params import read_params

IGNORED = ("__pycache__", ".DS_Store", ".*.tmp")  # as in .dvcignore
Stage = dict[str, Any]  # an entry of dvc.yaml


def read_pipeline() -> dict[str, Stage]:
    """The stages of dvc.yaml by name."""
    try:
        return YAML(typ="safe").load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    except FileNotFoundError:
        raise UserError("dvc.yaml: not found; run from the root of the repository") from None


def checkpoint_folder() -> Path:
    """In the user's repository, even if DVC runs the stage in a copy of it: then it sets DVC_ROOT."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".dvc/tmp/resume"


def fingerprints(stage: Stage) -> dict[str, str]:
    """MD5 of every file, as in dvc.lock, and the value of every parameter that dvc.yaml lists for a stage, by name.

    For the user's folder of images, a hash of names, sizes and times: reading all images twice could take minutes.
    """
    params = read_params()
    prints = {f"params.yaml: {key}": json.dumps(params.get(key), sort_keys=True) for key in stage.get("params", [])}
    for dep in stage["deps"]:
        if dep == "${folder}":
            folder = str(params.get("folder"))
            prints[folder] = _times(Path(folder))
        else:
            prints |= {str(file): md5(file) for file in _files(Path(dep))}
    return prints


def _files(path: Path) -> list[Path]:
    """The file, or all files in the folder that .dvcignore does not exclude."""
    if not path.is_dir():
        return [path]
    ignored = {file for pattern in IGNORED for file in path.rglob(pattern)}
    files = (file for file in path.rglob("*") if file.is_file())
    return sorted(file for file in files if not ignored.intersection([file, *file.parents]))


def md5(file: Path) -> str:
    """As in dvc.lock. Cached, because a file may be large: it is read again only if its size or time has changed."""
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
                stat = os.lstat(os.path.join(place, name))  # of the link itself: links may be broken or circular
                found.update(json.dumps([place, name, stat.st_size, stat.st_mtime_ns]).encode())
    except (OSError, ValueError) as error:  # an invalid name, or a file that was just deleted
        return f"unreadable: {error}"
    return found.hexdigest()


@contextmanager
def inputs_must_not_change(name: str, stage: Stage) -> Iterator[None]:
    """Raises UserError if the inputs of a stage have changed when the block has succeeded."""
    before = fingerprints(stage)
    yield
    after = fingerprints(stage)
    if changed := [name for name in before | after if after.get(name) != before.get(name)]:
        raise UserError(
            f"{', '.join(changed)}: changed while the stage {name} ran, so its result is not recorded; "
            "run it again, with the inputs as they were (training then resumes) or as they are now"
        )
