"""Stage `check`: validates all parameters and counts the images (without opening them) before any other stage runs.

DVC deletes a stage's outputs before it runs the stage. This stage runs first and whenever params.yaml changes, so a
mistake is found while the outputs of the other stages still exist. Its own output is constant.
"""

import os
import shlex
from pathlib import Path

from pydantic import ConfigDict

from stages.features.params import ExtractParams
from stages.images.listing import in_words, list_folder
from stages.images.params import UNLABELLED_IMAGES, DownloadParams
from stages.io.writing import require_writable, write_bytes
from stages.probing.params import LinearParams, LogregParams, NeighboursParams
from stages.runtime.errors import shortened
from stages.runtime.inputs import checkpoint_folder
from stages.runtime.params import params_error
from stages.simclr.params import LaunchParams, PretrainParams


class Params(DownloadParams, PretrainParams, LaunchParams, ExtractParams, LogregParams, LinearParams, NeighboursParams):
    """All of params.yaml; unknown parameters are errors."""

    model_config = ConfigDict(extra="forbid")


def main(params: Params) -> None:
    if mistakes := contradictions(params):
        raise params_error(mistakes)
    images = unlabelled_images(params)
    if 2 * params.batch_size > images:
        raise params_error([batch_too_large(params, images)])
    require_writable(checkpoint_folder())
    write_bytes(Path("data/checked.txt"), b"The parameters fit each other and the images.\n")


def contradictions(params: Params) -> list[str]:
    """Combinations of parameters that would stop a later stage: one line each."""
    found = []
    if not os.path.isdir(params.folder):
        found.append(
            f"folder = {shortened(params.folder)!r}: there is no such folder (it must exist for every value of data)"
        )
    if params.pixel_range and params.pixel_range[0] >= params.pixel_range[1]:
        found.append(f"pixel_range = {params.pixel_range}: the first number (black) must be the smaller one")
    if params.batch_size % params.processes:
        found.append(
            f"batch_size = {params.batch_size}: is not divisible by the {params.processes} processes of launch"
        )
    return found


def unlabelled_images(params: Params) -> int:
    """Their number. For a folder, prints which files are left out, and the first classes."""
    if params.data != "folder":
        return UNLABELLED_IMAGES[params.data]
    listing = list_folder(Path(params.folder))
    if listing.others:
        print(f"{params.folder}: {in_words(listing.others)}")
    first = list(listing.train)[: params.first_classes]
    print(f"first_classes = {params.first_classes}: {shortened(', '.join(first))}")
    return sum(map(len, listing.train.values())) if listing.unlabelled is None else len(listing.unlabelled)


def batch_too_large(params: Params, images: int) -> str:
    """One line, with the command for the largest batch that this number of unlabelled images allows."""
    largest = images // 2 // params.processes * params.processes
    batches = "two batches (one for training, one held out)"
    few = f"batch_size = {params.batch_size}: {images} unlabelled images do not fill {batches}"
    if largest < 2:
        return f"{few}; add images or start fewer processes"
    settings = (f"data={params.data}", f"folder={params.folder}", f"batch_size={largest}")
    command = f"dvc exp run {' '.join(f'-S {shlex.quote(each)}' for each in settings)}"
    return f"{few}; use at most {largest}: `{command}`"
