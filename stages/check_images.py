"""Stage `check-images`: whether there are as many images as the parameters ask for, before any is read.

Like `check`, it ends a run before another stage has lost its outputs, and its only output is always the same.

Reads   of a folder of images, which files it holds
Writes  data/images_checked.txt
"""

from pathlib import Path

from stages.files.inputs import inputs_must_not_change
from stages.files.params import Params, load_params, refuse
from stages.files.writing import write_bytes
from stages.images.sizes import Sizes, count_images


def main() -> None:
    params = load_params()
    sizes = count_images(params.data, Path(params.folder))
    if sizes.left_out:
        print(f"{params.folder}: {sizes.left_out}")
    if problems := mistakes(params, sizes):
        refuse(problems)
    write_bytes(Path("data/images_checked.txt"), b"The images are enough for the parameters.\n")


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
    return found


if __name__ == "__main__":
    with inputs_must_not_change("check-images"):
        main()
