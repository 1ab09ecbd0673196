"""Parameters that contradict each other or the number of images."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages import check
from stages.check import Params
from stages.check import too_few_images as mistakes
from stages.images.sizes import SAMPLE, Sizes, count_images
from stages.runtime.params import FILE
from tests.repository import ROOT, load_params, refusal

COMMITTED = ROOT / FILE


def params(**changes: object) -> Params:
    return Params.model_validate(load_params(COMMITTED).model_dump() | changes)


TEN_CLASSES = Sizes(unlabelled=600, train=[60] * 10, test=100)


def test_the_readme_command_for_a_custom_folder_fits_its_images() -> None:
    (line,) = re.findall(r"^dvc exp run -S data=folder .*", COMMITTED.with_name("README.md").read_text(), re.M)
    settings = {key: YAML(typ="safe").load(value) for key, value in re.findall(r"-S (\w+)=(\S+)", line)}
    images = count_images("folder", COMMITTED.parent / settings["folder"])
    assert mistakes(params(**settings), images) == []


def test_parameters_that_do_not_fit_the_images_are_reported() -> None:
    first, second = mistakes(params(first_classes=11, batch_size=301), TEN_CLASSES)
    assert first.startswith("first_classes = 11: the data have 10 classes")
    assert second.startswith("batch_size = 301: 600 unlabelled images do not fill two batches")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"folder": "/typo"}, "folder = '/typo': there is no such folder"),
        ({"pixel_range": [1, 1]}, "pixel_range = [1.0, 1.0]: the first number (black) must be"),
        ({"launch": "torchrun --nproc-per-node=3"}, "batch_size = 256: is not divisible by the 3 processes of launch"),
        ({"batch_size": 2**30}, f"batch_size = {2**30}, projection_dim = 128: need "),
    ],
)
def test_parameters_that_contradict_each_other_are_reported(changes: dict[str, object], expected: str) -> None:
    (found,) = check.contradictions(params(**{"folder": str(COMMITTED.parent), **changes}))
    assert found.startswith(expected)
    assert check.contradictions(params(folder=str(COMMITTED.parent))) == []


def test_a_folder_for_checkpoints_that_cannot_be_written_is_reported_and_the_first_classes_are_named(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    small = params(data="folder", folder=str(ROOT / "examples/images"), first_classes=2, batch_size=4)
    Path(".dvc").touch()
    assert refusal(check.main, small).startswith(".dvc/tmp/resume: cannot be written (")
    assert not Path("data").exists()
    assert "first_classes = 2: circle, square\n" in capsys.readouterr().out
    Path(".dvc").unlink()
    check.main(small)
    assert Path("data/checked.txt").exists()


def test_two_batches_of_images_are_enough_and_classes_may_be_small() -> None:
    assert mistakes(params(), SAMPLE) == mistakes(params(batch_size=300), TEN_CLASSES) == []
    # Label efficiency leaves out the numbers of labels per class for which there are too few images.
    assert mistakes(params(batch_size=2), Sizes(60, [6] * 10, 10)) == []
