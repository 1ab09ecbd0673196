"""Stage `check`: all parameters, against each other and the number of images, before any other stage runs.

DVC deletes the outputs of a stage before it runs it. This stage runs first, reruns whenever params.yaml or the folder
of images changes, and its only output is a file that is always the same. So a mistake ends the run here, while the
outputs of the other stages are still there, and a change that is none makes no other stage run.

Reads   params.yaml; of a folder of images, which files it holds
Writes  data/checked.txt
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from stages.dataset import Sizes
from stages.files import write_bytes
from stages.params import FILE, Params, load_params, way_back
from stages.provenance import unchanged
from stages.sources import count_images


def main() -> None:
    params = load_params()
    problems = mistakes(params, count_images(params.data, Path(params.folder)))
    if problems:
        sys.exit("\n".join([f"{FILE}: {problem}" for problem in problems] + [way_back(FILE)]))
    write_bytes(Path("data/checked.txt"), b"The parameters fit each other and the images.\n")


def mistakes(params: Params, sizes: Sizes) -> list[str]:
    """What would end a later stage, a line each."""
    found = []
    classes = len(sizes.train)
    if params.first_classes > classes:
        found.append(f"first_classes = {params.first_classes}: the data have {classes} classes")
    if 2 * params.batch_size > sizes.unlabelled:
        found.append(
            f"batch_size = {params.batch_size}: {sizes.unlabelled} unlabelled images do not fill two batches "
            "(one to train on, one held out); take a smaller batch or add images"
        )
    fraction, seed = params.logreg.validation_fraction, params.seed
    if not all(can_be_split(part, fraction, seed) for part in (sizes.train, sizes.train[: params.first_classes])):
        found.append(
            f"logreg.validation_fraction = {fraction}: {sum(sizes.train)} training images of {classes} classes cannot "
            f"be split so that both parts hold every class (the smallest class has {min(sizes.train)})"
        )
    else:
        found += [
            f"logreg.labels_per_class = {count}: cannot be split by logreg.validation_fraction = {fraction} so that "
            "both parts hold every class; leave it out, or change the fraction"
            for count in params.logreg.labels_per_class
            if count < min(sizes.train) and not can_be_split([count] * classes, fraction, seed)
        ]
    return found


def can_be_split(per_class: list[int], fraction: float, seed: int) -> bool:
    """Whether every class gets images on both sides of the stratified split that fit-logreg will make.

    scikit-learn itself looks only at how many images each side has: of 6 and 2, a quarter is two of the first class.
    """
    labels = np.repeat(np.arange(len(per_class)), per_class)
    try:
        parts = train_test_split(labels, test_size=fraction, stratify=labels, random_state=seed)
    except ValueError:
        return False
    return all(len(np.unique(part)) == len(per_class) for part in parts)


if __name__ == "__main__":
    with unchanged("check"):
        main()
