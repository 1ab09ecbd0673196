"""The stages of the probes: their tables and metrics; test images are never used for selection."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.naive_bayes import GaussianNB

from stages import fit_linear, fit_logreg, fit_neighbours
from stages.io.tensors import read_tensors, write_tensors
from stages.probes.logreg import LogisticProbe
from stages.probing.evaluation import FEATURES, FrozenFeatures, evaluate, tasks_of
from stages.probing.probe import draw_labels
from stages.probing.tables import Result, headline, score_row
from stages.reporting.summaries import read_probe_tables, results_of
from stages.runtime.errors import UserError
from tests.probing.data import clusters
from tests.repository import ROOT, load_params

ENCODERS = ["pixels", "untrained", "simclr"]
SPREADS = {"pixels": 4.0, "untrained": 6.0, "simclr": 2.0}
PROBE_TABLES = ("scores", "gains", "fits")
TEN = [str(number) for number in range(10)]


def test_a_task_that_equals_another_task_is_left_out() -> None:
    names = ["ant", "bee", "cat"]
    assert tasks_of(names, names, 3) == {"all": ("fine", 3)}
    assert tasks_of(names, ["insect", "mammal"], 2) == {
        "first": ("fine", 2), "all": ("fine", 3), "superclasses": ("coarse", 2)
    }  # fmt: skip


def write_features(folder: Path, labels_shift: int = 0) -> None:
    """Writes clusters as the features of every encoder, with shifted test labels, and parameters for few fits."""
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["first_classes"] = 4
    params["neighbours"] = 1000  # more than there are images
    params["linear"]["epochs"] = 3
    params["logreg"]["labels_per_class"] = [5, 10]
    yaml.dump(params, folder / "params.yaml")
    tensors = {}
    for name, spread in SPREADS.items():
        for split, count, seed in (("train", 120, 0), ("test", 100, 1)):
            data = clusters(count, 10, spread, seed)
            shift = labels_shift if split == "test" else 0
            tensors[f"{split}_{name}"] = torch.from_numpy(data.x)
            tensors[f"{split}_fine"] = torch.from_numpy((data.y + shift) % 10)
            tensors[f"{split}_coarse"] = torch.from_numpy((data.y + shift) % 10 // 5)
    tensors["test_seen"] = torch.arange(100) % 4 == 0
    names = {"fine_names": TEN, "coarse_names": ["low", "high"]}
    write_tensors(folder / FEATURES, tensors, {"encoders": ENCODERS, **names})


@pytest.fixture
def written(empty_folder: Path) -> Path:
    write_features(empty_folder)
    return empty_folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All probes, with two kinds of test labels."""
    folders = [tmp_path_factory.mktemp(f"shift{shift}") for shift in (0, 1)]
    for shift, folder in enumerate(folders):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            write_features(folder, shift)
            for stage in (fit_logreg, fit_linear, fit_neighbours):
                stage.main(load_params())
    return folders


def table(folder: Path, name: str) -> pd.DataFrame:
    tables = folder / "plots/data"
    return read_probe_tables(name, tables) if name in PROBE_TABLES else pd.read_csv(tables / f"{name}.csv")


def metrics(folder: Path, probe: str) -> dict[str, float]:
    return json.loads((folder / f"metrics/{probe}.json").read_text())[probe]


def test_chosen_c_and_the_fitted_classifier_ignore_test_labels(runs: list[Path]) -> None:
    for name in ("models/classifier.safetensors", "plots/data/logreg/choice_of_C.csv", "data/neighbours.csv"):
        first, second = ((folder / name).read_bytes() for folder in runs)
        assert (first == second) is (name != "data/neighbours.csv")  # which has the classes of test images
    for name in ("scores", "fits"):
        of_train = [frame[frame.split == "train"] for frame in (table(folder, name) for folder in runs)]
        pd.testing.assert_frame_equal(*of_train)
    assert metrics(runs[0], "logreg") != metrics(runs[1], "logreg")


def test_every_probe_is_scored_for_every_encoder(runs: list[Path]) -> None:
    scores = table(runs[0], "scores")
    kinds = [("logreg", "first"), ("logreg", "all"), ("logreg", "superclasses"), ("linear", "first"),
             ("neighbours", "all"), ("neighbours", "superclasses")]  # fmt: skip
    tested = scores[scores.split == "test"]
    assert list(zip(tested.probe, tested.classes, tested.encoder, strict=True)) == [
        (*kind, encoder) for kind in kinds for encoder in ENCODERS
    ]
    assert ((tested.accuracy_low < tested.accuracy) & (tested.accuracy < tested.accuracy_high)).all()
    assert scores[scores.split == "train"].accuracy_low.isna().all()
    assert (scores[scores.probe == "neighbours"].split == "test").all()


def test_the_gain_in_the_metrics_is_over_the_best_control(runs: list[Path]) -> None:
    gains, scores = table(runs[0], "gains"), table(runs[0], "scores").query("split == 'test'")
    for probe, classes in (("logreg", "first"), ("logreg", "all"), ("linear", "first"), ("neighbours", "all")):
        accuracy = scores.query("probe == @probe and classes == @classes").set_index("encoder").accuracy
        numbers = metrics(runs[0], probe)
        assert numbers[classes] == pytest.approx(accuracy.simclr)
        best = max(accuracy.pixels, accuracy.untrained)
        assert numbers[f"{classes}_gain"] == pytest.approx(accuracy.simclr - best, abs=1e-6)
        for row in gains.query("probe == @probe and classes == @classes").itertuples():
            assert row.gain == pytest.approx(accuracy.simclr - accuracy[row.control], abs=1e-6)
            assert row.gain_low < row.gain < row.gain_high


def test_metrics_have_the_balanced_accuracy_only_if_the_classes_differ_in_size() -> None:
    y, correct = np.repeat([0, 1, 2], [40, 8, 3]), np.repeat([True, False], [40, 11])
    gains = pd.DataFrame({"classes": ["all"], "control": "pixels", "gain": 0.1})
    found = headline({("all", "simclr"): Result(None, [], [], correct, y)}, gains)
    assert found == {"all": 40 / 51, "all_gain": 0.1, "all_balanced": pytest.approx(1 / 3)}
    same_sizes = headline({("all", "simclr"): Result(None, [], [], correct, np.arange(51) % 3)}, gains)
    assert set(same_sizes) == {"all", "all_gain"}


def test_with_few_labels_c_is_chosen_on_the_first_draw(written: Path) -> None:
    features, params = FrozenFeatures(), load_params()
    train, test = features.splits("all", "pixels")
    draws = [train.subset(draw_labels(train.y, 5, [params.seed, 5, draw])) for draw in range(3)]
    candidates = [fit_logreg.chosen_c(params).fit(draw.x, draw.y).C for draw in draws]
    assert len(set(candidates)) > 1  # otherwise this test would prove nothing
    probes = [LogisticProbe(candidates[0], 100).fit(draw.x, draw.y) for draw in draws]
    expected = [(probe.decision_function(test.x).argmax(1) == test.y).mean() for probe in probes]
    assert fit_logreg.few_labels("pixels", 5, features, params)[0] == expected


def test_label_efficiency_has_a_row_per_draw_and_ends_with_all_images(runs: list[Path]) -> None:
    efficiency = table(runs[0], "logreg/label_efficiency")
    simclr = efficiency[efficiency.encoder == "simclr"]
    assert list(zip(simclr.images_per_class, simclr["draw"], strict=True)) == [
        *((5, draw) for draw in (1, 2, 3)), *((10, draw) for draw in (1, 2, 3)), (12, 1)
    ]  # fmt: skip
    assert simclr.accuracy.iloc[-1] == metrics(runs[0], "logreg")["all"]


def test_fit_curves_cover_the_encoders_before_and_after_simclr_and_end_at_the_scores(
    runs: list[Path],
) -> None:
    fits, scores = table(runs[0], "fits"), table(runs[0], "scores")
    assert set(fits.encoder) == {"untrained", "simclr"}
    keys = ["probe", "classes", "encoder", "split"]
    assert fits[fits.probe == "linear"].groupby(keys).step.agg(
        ["min", "max"]
    ).drop_duplicates().to_numpy().tolist() == [[1, 3]]
    last = fits.groupby(keys).last().join(scores.set_index(keys)[["accuracy"]].add_suffix("_in_the_end"))
    assert (last.accuracy == last.accuracy_in_the_end).all()


def test_example_images_have_different_classes_and_their_neighbours_are_sorted_by_similarity(runs: list[Path]) -> None:
    found = pd.read_csv(runs[0] / "data/neighbours.csv")
    assert found.drop_duplicates("image")["class"].is_unique
    assert found.groupby(["encoder", "image"])["rank"].apply(list).map(tuple).unique().tolist() == [(1, 2, 3, 4, 5, 6)]
    train, test = clusters(120, 10, 2.0), clusters(100, 10, 2.0, 1)
    row = found[found.encoder == "simclr"].iloc[0]
    cosines = train.x @ test.x[row.image] / np.linalg.norm(train.x, axis=1)
    assert row.neighbour == cosines.argmax()
    assert row.neighbour_class == train.y[row.neighbour]


def test_the_saved_classifier_gives_the_predictions_of_the_table(runs: list[Path]) -> None:
    saved = read_tensors(runs[0] / "models/classifier.safetensors")[0]
    h = torch.from_numpy(clusters(100, 10, 2.0, 1).x)
    p = (h @ saved["weight"].T + saved["bias"]).softmax(1)
    predictions = table(runs[0], "logreg/predictions")
    assert predictions.predicted.tolist() == p.argmax(1).tolist()
    np.testing.assert_allclose(predictions.confidence, p.max(1).values, atol=1e-4)


def test_accuracy_new_is_the_accuracy_on_test_images_not_seen_before(runs: list[Path]) -> None:
    scores, predictions = table(runs[0], "scores"), table(runs[0], "logreg/predictions")
    row = scores[(scores.probe == "logreg") & (scores.classes == "all") & (scores.encoder == "simclr")]
    tested = row[row.split == "test"].iloc[0]
    others = predictions[predictions.image % 4 != 0]
    assert tested.images_new == len(others) == 75
    assert tested.accuracy_new == pytest.approx((others.actual == others.predicted).mean())
    assert row[row.split == "train"].accuracy_new.isna().all()
    first = scores[(scores.classes == "first") & (scores.split == "test")]
    assert set(first.images_new) == {sum(number % 4 != 0 and number % 10 < 4 for number in range(100))}


def test_fits_that_max_iter_stopped_are_reported(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written / "params.yaml"
    file.write_text(file.read_text().replace("max_iter: 100 ", "max_iter: 1 "))
    fit_logreg.main(load_params())
    stopped = f" {fit_logreg.NOT_CONVERGED}"
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith(stopped)]
    assert sum(line.startswith("logreg, ") for line in lines) == 9  # three encoders, three kinds of classes
    assert (
        sum(
            f"labels per class, {name}: " in line and f", 3 of 3 fits{stopped}" in line
            for name in ENCODERS
            for line in lines
        )
        == 6
    )


@pytest.mark.parametrize("first_classes", [2, 10])
@pytest.mark.parametrize("classifier", [RidgeClassifier(), GaussianNB()])  # with scores, with probabilities
def test_any_classifier_of_scikit_learn_is_a_probe(written: Path, classifier: Any, first_classes: int) -> None:
    features = FrozenFeatures(first_classes)
    evaluate("other", features, ["first"], lambda _: classifier, threads=1)
    row = table(written, "scores").query("probe == 'other' and encoder == 'simclr' and split == 'test'")
    train, test = (clusters(count, 10, 2.0, seed).first(first_classes) for count, seed in ((120, 0), (100, 1)))
    assert row.accuracy.item() == pytest.approx(classifier.fit(train.x, train.y).score(test.x, test.y))


def test_noise_with_95_percent_of_the_images_in_one_class_gives_a_warning() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random(400) < 0.05).astype(int)
    z = np.stack([np.full(400, 3.0), rng.normal(size=400)], 1).astype(np.float32)
    row = {"probe": "logreg", "classes": "all", "encoder": "simclr"} | score_row("test", z, y, y)
    gains = pd.DataFrame(columns=["probe", "classes", "control"])
    assert row["accuracy"] > 0.9
    assert row["majority"] == (y == 0).mean()
    assert row["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, z.argmax(1)))
    for majority, is_informative in ((row["majority"], False), (0.5, True)):
        [result] = results_of(pd.DataFrame([row | {"majority": majority}]), gains, {"all": "all"}).values()
        assert bool(result["is_informative"]) is is_informative


def test_a_chosen_c_at_the_edge_of_the_range_and_a_fit_that_has_not_converged_are_reported() -> None:
    params = load_params()
    probe = LogisticProbe(max(params.logreg.C), 100)
    probe.converged = False
    results = {("all", "simclr"): Result(probe, [], [], np.array([]), np.array([]))}
    assert fit_logreg.warnings_of(results, params) == [
        f"logreg, all, simclr: {fit_logreg.NOT_CONVERGED}",
        "logreg, all, simclr: C = 0.3 is at the edge of the range logreg.C; try a wider range",
    ]
    probe.converged, probe.C = True, params.logreg.C[1]
    assert fit_logreg.warnings_of(results, params) == []


def test_features_that_are_equal_for_all_images_give_a_one_line_error(written: Path) -> None:
    tensors, metadata = read_tensors(FEATURES)
    write_tensors(Path("changed"), tensors | {"train_untrained": torch.zeros(120, 16)}, metadata)
    Path("changed").replace(FEATURES)
    with pytest.raises(UserError, match=r"^data/features\.safetensors: features of untrained are the same"):
        fit_linear.main(load_params())
