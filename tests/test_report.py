"""The report: one self-contained file, with the same bytes for the same results."""

import hashlib
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from stages import report
from stages.images.sample import COARSE_NAMES, FINE_NAMES
from stages.io.tensors import write_tensors
from stages.reporting.summaries import read_probe_tables
from tests.repository import ROOT, load_params, random_images

BOLD = "<b>bold</b>"
ENCODERS = ["pixels", "untrained", "simclr"]


def pictures(count: int) -> torch.Tensor:
    """Ten images, repeated."""
    return random_images(10).repeat(-(-count // 10), 1, 1, 1)[:count]


METADATA = {
    "backbone": "resnet18",
    "stem": "imagenet",
    "image_size": 32,
    "features": 512,
    "training": {"batch_size": 256},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed tables, with one class renamed and one probe below the majority; files not in git are made up."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(ROOT / "plots/data", folder / "plots/data")
    shutil.copy(ROOT / "params.yaml", folder)
    predictions = folder / "plots/data/logreg/predictions.csv"
    table = pd.read_csv(predictions)
    wrong = table[table.predicted != table.actual]
    _, renamed = wrong.groupby(["actual", "predicted"]).size().idxmax()
    predictions.write_text(predictions.read_text().replace(renamed, BOLD))
    file = folder / "plots/data/neighbours/scores.csv"
    scores = pd.read_csv(file)
    scores.loc[scores.classes == "superclasses", "majority"] = 0.99
    scores.to_csv(file, index=False)

    tensors = {"train_images": pictures(5000), "test_images": pictures(len(table))}
    tensors["test_unlabelled"] = torch.arange(len(table)) < 3
    names = {"fine_names": FINE_NAMES, "coarse_names": COARSE_NAMES}
    for name in report.HASHED_FILES:
        write_tensors(folder / name, {"x": torch.zeros(1)}, METADATA)
    write_tensors(folder / "data/labelled.safetensors", tensors, names)
    write_tensors(folder / "data/views.safetensors", {name: pictures(8) for name in ("images", "first", "second")})
    pd.DataFrame(
        {"encoder": encoder, "image": 50 * row, "class": f"class {row}", "rank": rank, "neighbour": 7 * row + rank,
         "neighbour_class": f"class {rank}"}
        for encoder in ENCODERS[1:] for row in range(6) for rank in range(1, 7)
    ).to_csv(folder / "data/neighbours.csv", index=False)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        report.main(load_params())
    return (folder / "report.html").read_text()


def test_the_page_loads_nothing_from_elsewhere(page: str) -> None:
    sources = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", page)
    assert len(sources) > 15
    assert all(source.startswith("data:") for source in sources)
    assert not re.search(r"https?://|<script|@import|url\(", page)


def test_every_picture_has_an_alternative_text(page: str) -> None:
    images = re.findall(r"<img [^>]*>", page)
    texts = [re.search(r'alt="([^"]{20,})"', image) for image in images]
    assert len(images) > 15
    assert all(texts)
    assert len({text[1] for text in texts if text}) == len(images)


def test_class_names_are_escaped_in_html(page: str) -> None:
    assert BOLD not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page


@pytest.mark.usefixtures("page")
def test_two_revisions_of_a_picture_file_fit_side_by_side_at_1400_pixels(folder: Path) -> None:
    files = sorted(folder.glob("plots/*.png"))
    assert [file.stem for file in files] == sorted(report.PICTURE_FILES)
    assert all(Image.open(file).width <= 670 for file in files)  # `dvc plots diff` adds frames and margins


def test_the_headline_is_the_accuracy_in_the_first_sentence(page: str) -> None:
    sentence, headline = re.search(r'conclusion">(.*?)</p>.*?number">(.*?)</dd>', page, re.S).groups()  # type: ignore[union-attr]
    assert f"classifies {headline} of the test images" in sentence


def test_the_numbers_in_the_page_are_those_in_the_tables(folder: Path, page: str) -> None:
    rows = dict(re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', page, re.S))
    scores, gains = (read_probe_tables(name, folder / "plots/data") for name in ("scores", "gains"))
    probes = {"logreg": "logistic regression", "linear": "linear layer", "neighbours": "nearest neighbours"}
    classes = {"first": "first 10 classes", "all": "all 100 classes", "superclasses": "20 superclasses"}
    kinds = scores[["probe", "classes"]].drop_duplicates()
    assert set(rows) == {f"{probes[probe]}, {classes[name]}" for probe, name in kinds.to_numpy()}
    for (probe, name), of_kind in scores.groupby(["probe", "classes"]):
        expected = [
            f"{test.accuracy:.1%} {100 * test.accuracy_low:.1f} to {100 * test.accuracy_high:.1f}"
            for test in of_kind[of_kind.split == "test"].itertuples()
        ]
        expected += [
            f"{100 * row.gain:+.1f} {100 * row.gain_low:+.1f} to {100 * row.gain_high:+.1f}"
            for row in gains[(gains.probe == probe) & (gains.classes == name)].itertuples()
        ]
        train = of_kind[(of_kind.split == "train") & (of_kind.encoder == "simclr")].accuracy
        expected.append("\N{EN DASH}" if train.empty else f"{train.item():.1%}")
        simclr = of_kind[(of_kind.split == "test") & (of_kind.encoder == "simclr")].iloc[0]
        expected += [f"{simclr.balanced_accuracy:.1%}", f"{simclr.majority:.1%}"]
        cells = re.findall("<td.*?</td>", rows[f"{probes[probe]}, {classes[name]}"], re.S)
        shown = [" ".join(re.sub(r"<.*?>", " ", cell).split()) for cell in cells]
        assert [text.replace("\N{MINUS SIGN}", "-").replace(" %", "%") for text in shown] == expected


def test_the_page_names_the_probes_that_are_not_better_than_the_most_frequent_class(page: str) -> None:
    [named] = re.findall("better than always predicting the most frequent class: (.*?)[.]<", page)
    assert named == "nearest neighbours, 20 superclasses"


def test_the_page_has_the_parameters_the_versions_and_the_checksums_of_the_inputs(folder: Path, page: str) -> None:
    assert "temperature: 0.07" in page
    assert "<p>3 test images are among the unlabelled images of pretraining" in page
    assert f"torch {torch.__version__.split('+')[0]}" in page
    for name in report.HASHED_FILES:
        md5 = hashlib.md5((folder / name).read_bytes()).hexdigest()
        assert f'{name}</code></td><td class="text"><code>{md5}</code>' in page
