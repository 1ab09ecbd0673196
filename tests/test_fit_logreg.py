"""The stage: what it compares, and that the test set chooses nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

from stages import fit_logreg as stage
from stages.files import read_tensors, write_tensors
from stages.fit_logreg import compare, label_efficiency, save_classifier, tasks_of
from stages.probes import Split, fit_probe


def clusters(count: int, classes: int, seed: int = 0) -> Split:
    """Gaussian clusters in 16 dimensions around fixed centres."""
    centres = torch.randn(classes, 16, generator=torch.Generator().manual_seed(99))
    y = torch.arange(count) % classes
    return Split(centres[y] + 2 * torch.randn(count, 16, generator=torch.Generator().manual_seed(seed)), y)


def test_every_encoder_is_scored_and_the_gain_is_what_simclr_has_more() -> None:
    train, test = clusters(60, 3), clusters(90, 3, seed=1)
    weights = {"initial": torch.zeros(16, 3), "simclr": torch.randn(16, 3, generator=torch.Generator().manual_seed(0))}
    metrics = compare({name: ((lambda x, w=w: x @ w + torch.arange(3)), train, test) for name, w in weights.items()})
    expected = {name: accuracy_score(test.y, (test.x @ w + torch.arange(3)).argmax(1)) for name, w in weights.items()}
    for name in weights:
        assert metrics[name]["test_accuracy"] == pytest.approx(expected[name])
        assert metrics[name]["test_accuracy_low"] < expected[name] < metrics[name]["test_accuracy_high"]
    gain = metrics["gain"]["initial"]
    assert gain["test_accuracy"] == pytest.approx(expected["simclr"] - expected["initial"])


def test_equal_tasks_of_a_folder_are_the_same_task() -> None:
    names = ["ant", "bee", "cat"]
    assert tasks_of(names, names, 3) == {task: ("fine", 3) for task in ("all", "first", "coarse")}
    assert tasks_of(names, ["insect", "mammal"], 2) == {
        "all": ("fine", 3), "first": ("fine", 2), "coarse": ("coarse", 2)
    }  # fmt: skip


def test_label_efficiency_has_mean_and_deviation_of_the_draws_and_ends_with_all_images() -> None:
    drawn = {("simclr", 10): [0.2, 0.4], ("simclr", 20): [0.5, 0.5]}
    few, more, every = label_efficiency(drawn, 50, {"simclr": 0.7})
    assert few == pytest.approx({"images_per_class": 10, "simclr": 0.3, "simclr_sd": 0.02**0.5})
    assert more == pytest.approx({"images_per_class": 20, "simclr": 0.5, "simclr_sd": 0})
    assert every == {"images_per_class": 50, "simclr": 0.7, "simclr_sd": ""}


@pytest.mark.parametrize("classes", [2, 4])
def test_saved_classifier_predicts_what_the_fitted_one_does(
    classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = clusters(100, classes)
    probe = fit_probe(data, [0.1], 0.25, 1000, seed=0)
    save_classifier(probe, {"fine_names": []})
    saved = read_tensors(Path("models/classifier.safetensors"))[0]
    logits = (data.x - saved["mean"]) / saved["scale"] @ saved["weight"].T + saved["bias"]
    expected = probe.model.predict_proba(probe.scaler.transform(data.x.numpy()))
    np.testing.assert_allclose(logits.softmax(1), expected, atol=1e-5)


def write_features(folder: Path, labels_shift: int = 0) -> None:
    """Clusters as the features of every encoder, with other test labels where asked; and parameters for few fits."""
    params = (Path(__file__).parent.parent / "params.yaml").read_text()
    for old, new in (("labels_per_class: [10,", "labels_per_class: [5, 10,"), ("epochs: 100", "epochs: 3")):
        params = params.replace(old, new)
    (folder / "params.yaml").write_text(params)
    train, test = clusters(120, 10), clusters(100, 10, seed=1)
    tensors = {
        "train_fine": train.y, "train_coarse": train.y // 5,
        "test_fine": (test.y + labels_shift) % 10, "test_coarse": test.y // 5,
    }  # fmt: skip
    encoders = ["pixels", "initial", "simclr"]
    for which in encoders:
        tensors |= {f"train_{which}": train.x.clone(), f"test_{which}": test.x.clone()}
    names = {"fine_names": [str(number) for number in range(10)], "coarse_names": ["low", "high"]}
    write_tensors(folder / stage.FEATURES, tensors, {"encoders": encoders, **names})


def test_features_that_are_no_numbers_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_features(tmp_path)
    tensors, notes = read_tensors(stage.FEATURES)
    tensors["test_initial"] = tensors["test_initial"].index_fill(0, torch.tensor(7), torch.nan)
    write_tensors(stage.FEATURES, tensors, notes)
    with pytest.raises(SystemExit, match=r"^data/features\.safetensors: features of initial are no numbers"):
        stage.main()


def test_chosen_c_and_the_fitted_classifier_ignore_test_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole stage, run twice with different test labels: everything but the test scores is the same."""
    metrics, classifiers = [], []
    for shift in (0, 1):
        folder = tmp_path / str(shift)
        folder.mkdir()
        monkeypatch.chdir(folder)
        write_features(folder, shift)
        stage.main()
        metrics.append((folder / "metrics/logreg.json").read_text())
        classifiers.append((folder / "models/classifier.safetensors").read_bytes())
    assert classifiers[0] == classifiers[1]
    assert metrics[0] != metrics[1]
    kept = [[line for line in text.splitlines() if '"test_' not in line] for text in metrics]
    assert kept[0] == kept[1]
    rows = (tmp_path / "0/plots/label_efficiency.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["images_per_class", "5", "10", "12"]
