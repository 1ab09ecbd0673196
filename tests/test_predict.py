"""The command that predicts the class of pictures."""

import csv
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from stages import predict
from stages.io.tensors import FORMAT, write_tensors
from stages.runtime.errors import UserError
from tests.repository import CLASSES, ROOT, Repository, random_images


@pytest.fixture
def folder(finished: Repository, empty_folder: Path) -> Path:
    """A folder with the model, five pictures, a broken picture and a text file."""
    Path("models").symlink_to(finished.path / "models")
    Path("pictures/more").mkdir(parents=True)
    for number, pixels in enumerate(random_images(4)):
        Image.fromarray(pixels.numpy()).resize((40 + number, 50)).save(f"pictures/more/{number}.png")
    Image.new("LA", (300, 20), (90, 128)).save("pictures/gray.png")
    Path("pictures/broken.jpg").write_bytes(b"nothing")
    Path("pictures/read.txt").write_text("no picture")
    return empty_folder


READABLE = ["pictures/gray.png", *(f"pictures/more/{number}.png" for number in range(4))]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """The exit status or the last line."""
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    try:
        predict.main()
    except UserError as error:
        return str(error)
    except SystemExit as stopped:  # of argparse
        return stopped.code
    return 0


def test_text_and_csv_agree_and_an_unreadable_picture_is_reported_without_stopping(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "pictures") == "1 of 6 pictures could not be read"
    text, problems = capsys.readouterr()
    left_out, broken = problems.splitlines()[:2]
    assert left_out == "pictures: 1 left out because of the ending: 1 .txt"
    assert broken.startswith("pictures/broken.jpg: cannot be read as an image (")
    assert len(text.splitlines()) == 5
    run(monkeypatch, "--csv", "pictures")
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["file"] for row in rows] == READABLE
    for line, row in zip(text.splitlines(), rows, strict=True):
        assert row["class"] in CLASSES
        assert line.split("  ")[0].strip() == f"{100 * float(row['probability']):.1f} %"
        assert (line.endswith(row["file"]), row["class"] in line) == (True, True)
    run(monkeypatch, "--csv", "--top", "9", "pictures")  # of three classes
    best = pd.read_csv(io.StringIO(capsys.readouterr().out)).groupby("file", sort=False)
    assert best["class"].first().to_dict() == {row["file"]: row["class"] for row in rows}
    assert all(set(classes) == set(CLASSES) for classes in best["class"].agg(list))
    assert best.probability.is_monotonic_decreasing.all()
    np.testing.assert_allclose(best.probability.sum(), 1, atol=1e-4)


def test_features_do_not_depend_on_the_chunk_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = predict.Model(Path("models/simclr.onnx"))(
        np.stack([predict.read_image(Path(file), 32) for file in READABLE])
    )[0]
    for chunk in (2, 1024):
        monkeypatch.setattr(predict, "CHUNK", chunk)
        run(monkeypatch, "--embed", "features.npz", "pictures")
        embedded = np.load("features.npz")
        assert embedded["files"].tolist() == READABLE
        np.testing.assert_allclose(embedded["features"], expected, rtol=1e-4, atol=1e-4)


def test_the_nearest_labelled_images_are_drawn_if_their_features_are_those_of_the_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(images: torch.Tensor, features: torch.Tensor) -> object:
        labelled = {"train_images": images, "train_fine": torch.arange(len(images)) % 3}
        write_tensors(Path("data/labelled.safetensors"), labelled, {"fine_names": CLASSES})
        write_tensors(Path("data/features.safetensors"), {"train_simclr": features})
        return run(monkeypatch, "--neighbours", "near.png", "pictures/more")

    images = random_images(8, 1)
    features = torch.from_numpy(predict.Model(Path("models/simclr.onnx"))(images.numpy())[0])
    others = [(images, features + 0.1), (images, features[:, :99]), (images.flip(0), features), (images[:7], features)]
    for other in others:
        assert str(draw(*other)).startswith("data/features.safetensors: its features are not those of the model for")
    assert not Path("near.png").exists()
    assert draw(images, features) == 0
    assert Image.open("near.png").size[0] > 300


def wrong_format() -> None:
    content = Path("models/simclr.onnx").read_bytes()
    Path("x.onnx").write_bytes(content.replace(FORMAT.encode(), b"simclr-dvc 1"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--model", "nowhere.onnx", "pictures"), "nowhere.onnx: not found; `dvc repro` creates it"),
        (("--model", "pictures/gray.png", "pictures"), "pictures/gray.png: cannot be read as ONNX ("),
        (("--model", "x.onnx", "pictures"), f"x.onnx: has the format simclr-dvc 1, not {FORMAT}; "),
        (("empty",), "empty: contains no image"),
        (("nowhere.png",), "1 of 1 pictures could not be read"),
        (("odd",), "2 of 2 pictures could not be read"),
        (("--neighbours", "near.png", "pictures"), "data/labelled.safetensors: cannot be read as safetensors ("),
        (("--json", "pictures"), 2),
        (("--top", "0", "pictures"), 2),
        ((), 2),
    ],
)
def test_a_mistake_gives_one_line(
    arguments: tuple[str, ...], expected: str | int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong_format()
    Path("empty").mkdir()
    Path("odd").mkdir()
    for name in ("two\nlines.png", os.fsdecode(b"caf\xe9.png")):
        Path("odd", name).hardlink_to("pictures/gray.png")
    found = run(monkeypatch, *arguments)
    if isinstance(expected, str):
        assert str(found).startswith(expected)
        assert "\n" not in str(found)
    else:
        assert found == expected


def test_names_are_printed_in_any_encoding_and_a_closed_pipe_ends_without_an_error(folder: Path) -> None:
    picture = Path("pictures/gray.png").rename("pictures/gr\u00e4y.png")  # the terminal may not have the letter
    command = [sys.executable, "-m", "stages", "predict", *[picture] * 600]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as predicting:
        assert predicting.stdout and predicting.stderr
        assert predicting.stdout.readline().endswith(b"gr\\xe4y.png\n")
        predicting.stdout.close()
        assert predicting.stderr.read() == b""


def test_examples_run_and_print_their_usage_without_an_argument(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        Path("classes", name).mkdir(parents=True)
        for number, pixels in enumerate(random_images(3, ord(name))):
            Image.fromarray(pixels.numpy()).save(f"classes/{name}/{number}.png")
        Path("classes", name, ".DS_Store").touch()
    for script, arguments, expected in (
        ("torchvision_encoder", ["pictures/gray.png"], "torch.Size([1, 512])"),
        ("timm_encoder", [], "torch.Size([2, 512])"),
        ("scikit_learn", ["classes"], "accuracy "),
    ):
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(ROOT / f"examples/{script}.py"))
        assert capsys.readouterr().out.startswith(expected)
        if arguments:
            monkeypatch.setattr(sys, "argv", [script])
            with pytest.raises(SystemExit, match=rf"python examples/{script}\.py "):
                runpy.run_path(str(ROOT / f"examples/{script}.py"))
