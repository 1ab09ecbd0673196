"""Stage `check`: all parameters, against each other and the number of images, before any other stage runs.

DVC deletes the outputs of a stage before it runs it. This stage runs first, reruns whenever params.yaml or the folder
of images changes, and its only output is a file that is always the same. So a mistake ends the run here, while the
outputs of the other stages are still there, and a change that is none makes no other stage run.

Reads   params.yaml; of a folder of images, which files it holds
Writes  data/checked.txt
"""

import sys
from pathlib import Path

from stages.files.inputs import inputs_must_not_change
from stages.files.params import ADVICE, FILE, Params, load_params
from stages.files.writing import write_bytes
from stages.images.dataset import Sizes
from stages.images.sizes import count_images


def main() -> None:
    params = load_params()
    problems = mistakes(params, count_images(params.data, Path(params.folder)))
    if problems:
        sys.exit("\n".join([f"{FILE}: {problem}" for problem in problems] + [ADVICE]))
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
    if params.batch_size % params.processes:
        found.append(f"batch_size = {params.batch_size}: does not divide by the {params.processes} processes of launch")
    return found


if __name__ == "__main__":
    with inputs_must_not_change("check"):
        main()
