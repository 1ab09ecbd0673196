"""Parameters that contradict each other or the number of images."""

import re
from pathlib import Path

import pytest

from stages import check
from stages.check import Params
from stages.runtime.errors import UserError
from stages.runtime.params import FILE
from tests.repository import ROOT, load_params, refusal

COMMITTED = ROOT / FILE


def params(**changes: object) -> Params:
    given = {"data": "sample", "folder": "examples/images", "batch_size": 256, "launch": "python"}
    return Params.model_validate(load_params(COMMITTED).model_dump() | given | changes)


def test_the_message_about_a_batch_that_is_too_large_gives_the_readme_command_for_a_custom_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="12 unlabelled images do not fill two batches") as stopped:
        check.main(params(data="folder"))
    [command] = re.findall("`(.*)`", str(stopped.value))
    assert f"\n{command} " in (ROOT / "README.md").read_text()
    check.main(params(data="folder", batch_size=int(command.rpartition("=")[2])))
    of_four_processes = params(launch="torchrun --nproc-per-node=4")
    assert "batch_size=20`" in check.batch_too_large(of_four_processes, 47)
    assert check.batch_too_large(of_four_processes, 7).endswith("; add images or start fewer processes")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"folder": "/typo"}, "folder = '/typo': there is no such folder"),
        ({"pixel_range": [1, 1]}, "pixel_range = [1.0, 1.0]: the first number (black) must be"),
        ({"launch": "torchrun --nproc-per-node=3"}, "batch_size = 256: is not divisible by the 3 processes of launch"),
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
