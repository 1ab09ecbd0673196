"""Stage `check`: all parameters, against each other, before any other stage runs.

DVC deletes the outputs of a stage before it runs it. This stage runs first, reruns whenever params.yaml changes, and
its only output is a file that is always the same. So a mistake ends the run here, while the outputs of the other stages
are still there, and a change that is none makes no other stage run.

Reads   params.yaml
Writes  data/checked.txt
"""

import os
from pathlib import Path

from stages.files.inputs import inputs_must_not_change
from stages.files.messages import shortened
from stages.files.params import Params, load_params, refuse
from stages.files.writing import write_bytes


def main() -> None:
    if problems := mistakes(load_params()):
        refuse(problems)
    write_bytes(Path("data/checked.txt"), b"The parameters fit each other.\n")


def mistakes(params: Params) -> list[str]:
    """What would end a later stage, a line each."""
    found = []
    if not os.path.isdir(params.folder):
        found.append(
            f"folder = {shortened(params.folder)!r}: there is no such folder (there must be, whatever data is)"
        )
    if params.pixel_range and params.pixel_range[0] >= params.pixel_range[1]:
        found.append(f"pixel_range = {params.pixel_range}: the first number, which is black, must be the smaller one")
    if params.batch_size % params.processes:
        found.append(f"batch_size = {params.batch_size}: does not divide by the {params.processes} processes of launch")
    return found


if __name__ == "__main__":
    with inputs_must_not_change("check"):
        main()
