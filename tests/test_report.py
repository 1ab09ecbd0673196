"""The report: one file, complete without the network, the same for the same numbers."""

import base64
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from stages import report
from stages.files import write_tensors

ROOT = Path(__file__).parent.parent


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The report of the committed metrics and plots."""
    for folder in ("metrics", "plots"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for picture in tmp_path.glob("plots/*.png"):
        picture.unlink()
    views = {
        name: torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
        for seed, name in enumerate(("images", "first", "second"))
    }
    write_tensors(tmp_path / "models/views.safetensors", views)
    monkeypatch.chdir(tmp_path)
    report.main()
    return Path("report.html").read_text()


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    sources = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", page)
    assert len(sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|<script|@import|url\(", page)


def test_pictures_in_the_page_are_those_in_plots(page: str) -> None:
    inside = [base64.b64decode(data) for data in re.findall(r"base64,([^\"]+)", page)]
    assert inside == [Path(f"plots/{name}.png").read_bytes() for name in ("curves", "views")]
    assert all(picture.startswith(b"\x89PNG") for picture in inside)


def test_numbers_in_the_table_are_those_in_the_metrics(page: str) -> None:
    metrics = json.loads(Path("metrics/logreg.json").read_text())
    for group in ("all", "first"):
        for encoder in ("initial", "simclr"):
            assert f"{100 * metrics[group][encoder]['test_accuracy']:.1f} %" in page
        assert f"{100 * metrics[group]['gain']['test_accuracy']:+.1f}" in page


def test_drawing_again_gives_the_same_bytes(page: str) -> None:
    before = {file: file.read_bytes() for file in Path("plots").glob("*.png")}
    report.main()
    assert Path("report.html").read_text() == page
    assert {file: file.read_bytes() for file in Path("plots").glob("*.png")} == before
