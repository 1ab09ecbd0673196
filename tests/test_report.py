"""The report: one file, complete without the network, the same for the same numbers."""

import base64
import csv
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from stages import report
from stages.figures import draw_confusion, draw_maps
from stages.files import write_tensors
from stages.report import read_table

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium")
FINE = [f"fine {number}" for number in range(100)]


def pictures(*shape: int) -> torch.Tensor:
    stream = torch.Generator().manual_seed(len(shape))
    return torch.randint(0, 256, (*shape, 32, 32, 3), dtype=torch.uint8, generator=stream)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed metrics and plots, with made-up examples."""
    folder = tmp_path_factory.mktemp("report")
    for name in ("metrics", "plots"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "params.yaml", folder)
    for picture in folder.glob("plots/*.png"):
        picture.unlink()
    write_tensors(folder / "models/views.safetensors", {name: pictures(8) for name in ("images", "first", "second")})
    with (folder / "plots/confusion.csv").open() as file:
        superclasses = sorted({row["actual"] for row in csv.DictReader(file)})
    examples = {
        "wrong_images": pictures(16), "wrong_fine": torch.arange(16), "wrong_predicted": torch.arange(16) + 1,
        "wrong_confidence": torch.linspace(0.9, 0.5, 16), "query_images": pictures(6), "query_fine": torch.arange(6),
        "map_class": torch.arange(200) % 20,
    }  # fmt: skip
    for which in ("initial", "simclr"):
        examples |= {
            f"map_{which}": torch.randn(200, 2, generator=torch.Generator().manual_seed(0)),
            f"near_{which}_images": pictures(6, 6),
            f"near_{which}_fine": torch.arange(6).expand(6, 6).clone(),
        }
    confused = [{"actual": FINE[0], "predicted": "<b>bold</b>", "images": 3, "share": 0.25}]
    notes = {"fine_names": FINE, "coarse_names": superclasses, "class_names": superclasses, "confused": confused}
    write_tensors(folder / "models/examples.safetensors", examples, notes)
    for name in report.HASHED:
        write_tensors(folder / f"{name}.safetensors", {name: torch.zeros(1)})
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        report.main()
    return (folder / "report.html").read_text()


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    sources = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", page)
    assert len(sources) > 15
    assert all(source.startswith("data:") for source in sources)
    assert not re.search(r"https?://|<script|@import|url\(", page)


def test_every_picture_has_a_text_for_those_who_do_not_see_it(page: str) -> None:
    images = re.findall(r"<img [^>]*>", page)
    texts = [re.search(r'alt="([^"]{20,})"', image) for image in images]
    assert len(images) > 15
    assert all(texts)
    assert len({text[1] for text in texts if text}) == len(images)


def test_names_of_classes_are_text_and_not_html(page: str) -> None:
    assert "<b>bold</b>" not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page


def test_pictures_in_the_page_are_those_in_plots(folder: Path, page: str) -> None:
    inside = [base64.b64decode(data) for data in re.findall(r"image/png;base64,([^\"]+)", page)]
    assert all(picture.startswith(b"\x89PNG") for picture in inside)
    files = sorted(folder.glob("plots/*.png"))
    assert [file.stem for file in files] == sorted(report.PLOTTED)
    assert all(file.read_bytes() in inside for file in files)


def test_numbers_in_the_table_are_those_in_the_metrics(folder: Path, page: str) -> None:
    rows = dict(re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', page, re.S))
    logreg = json.loads((folder / "metrics/logreg.json").read_text())
    for name, task in (("first 10 classes", "first"), ("all 100 classes", "all"), ("20 superclasses", "coarse")):
        row = rows[f"logistic regression, {name}"]
        for encoder, scores in logreg[task].items():
            if encoder == "gain":
                shown = [f"{100 * gain['test_accuracy']:+.1f}" for gain in scores.values()]
            else:
                shown = [f"{100 * scores['test_accuracy']:.1f} %"]
            assert all(number.replace("-", "\N{MINUS SIGN}") in row for number in shown)


def test_what_is_needed_to_make_it_again_is_there(folder: Path, page: str) -> None:
    assert "temperature: 0.07" in page
    assert f"torch {torch.__version__.split('+')[0]}" in page
    for name in report.HASHED:
        file = folder / f"{name}.safetensors"
        md5 = hashlib.md5(file.read_bytes()).hexdigest()
        assert f'{name}.safetensors</code></td><td class="text"><code>{md5}</code>' in page


def test_drawing_again_gives_the_same_bytes(folder: Path, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    before = {file: file.read_bytes() for file in Path("plots").glob("*.png")}
    report.main()
    assert Path("report.html").read_text() == page
    assert {file: file.read_bytes() for file in Path("plots").glob("*.png")} == before


def test_the_encoder_before_simclr_is_called_by_its_weights() -> None:
    assert report.labels_of(["pixels", "initial", "simclr"], "random")["initial"] == "untrained"
    labels = report.labels_of(["pixels", "untrained", "initial", "simclr"], "imagenet")
    assert (labels["untrained"], labels["initial"]) == ("untrained", "ImageNet")


def test_a_task_that_is_another_one_is_shown_once() -> None:
    tasks = {"first": {}, "all": {}, "coarse": {}}
    metrics = {"logreg": tasks, "linear": {}, "evaluate": {"knn_fine": {}, "knn_coarse": {}}}
    names = ["ant", "bee", "cat"]
    assert list(report.results_of(metrics, 3, names, names)) == [
        "logistic regression, all 3 classes", "linear layer, all 3 classes", "nearest neighbours, all 3 classes"
    ]  # fmt: skip
    assert len(report.results_of(metrics, 2, names, ["insect", "mammal"])) == 6


def test_an_empty_number_in_a_table_is_none_and_names_of_classes_stay_words(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("class,sd\n7,0.5\nnan,\n")
    table = read_table(tmp_path / "x.csv")
    assert table["class"] == ["7", "nan"]
    assert table["sd"] == [0.5, pytest.approx(float("nan"), nan_ok=True)]


def test_names_of_classes_are_drawn_as_they_are() -> None:
    names = ["$\\frac$", "_background", "7"]
    report.as_png(draw_confusion(names, names, names))
    figure = draw_maps({"simclr": torch.zeros(3, 2)}, torch.arange(3), names, {"simclr": "SimCLR"})
    report.as_png(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names


def browse(page: Path, profile: Path) -> tuple[str, list[str], list[str]]:
    """What headless Chromium makes of a page: the DOM, what it requested beyond the file, errors of scripts."""
    log = profile / "net.json"
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--enable-logging=stderr",
            f"--log-net-log={log}", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    # The browser's own requests have no origin, a page's have its own. Killed early, the log lacks its end.
    text = log.read_text()
    try:
        events: list[dict[str, Any]] = json.loads(text)["events"]
    except json.JSONDecodeError:
        events = json.loads(text.rstrip().rstrip(",") + "]}")["events"]
    starts = [event["params"] for event in events if "initiator" in event.get("params", {})]
    requested = [start["url"] for start in starts if start["initiator"] != "not an origin"]
    return done.stdout, requested, re.findall(r'CONSOLE.*"(Uncaught .*?)"', done.stderr)


browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (Debian's package)")


@browser
def test_a_browser_shows_all_pictures_and_requests_nothing(page: str, folder: Path, tmp_path: Path) -> None:
    # A picture that does not load takes itself away.
    (folder / "watched.html").write_text(page.replace("<img ", '<img onerror="this.remove()" '))
    dom, requested, errors = browse(folder / "watched.html", tmp_path)
    assert dom.count("<img ") == page.count("<img ")
    assert (requested, errors) == ([], [])


@browser
def test_the_browser_would_notice_a_request_a_broken_picture_and_a_script_error(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(
        '<img onerror="this.remove()" src="data:image/png;base64,AAAA"><img src="http://example.invalid/x.png">'
        "<script>nowhere()</script>"
    )
    dom, requested, errors = browse(tmp_path / "bad.html", tmp_path)
    assert dom.count("<img ") == 1
    assert set(requested) == {"http://example.invalid/x.png"}
    assert errors == ["Uncaught ReferenceError: nowhere is not defined"]
