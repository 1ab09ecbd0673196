"""The stage `extract-features`: the controls of SimCLR's features."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn

from stages import extract_features as stage
from stages.features.extraction import extract
from stages.io.tensors import read_tensors, write_tensors
from stages.simclr.encoder import Encoder
from tests.repository import CPU, ROOT, load_params, random_images, refusal


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


METADATA = {"backbone": "resnet18", "stem": "imagenet"}


def write_inputs(weights: str) -> dict[str, Encoder]:
    """Writes parameters, twelve labelled images and two encoders; returns the encoders."""
    params = (ROOT / "params.yaml").read_text()
    Path("params.yaml").write_text(params.replace("weights: random", f"weights: {weights}"))
    labels = torch.arange(6)
    tensors = {f"{part}_images": random_images(6, seed) for seed, part in enumerate(("train", "test"))}
    tensors |= {f"{part}_{level}": labels.clone() for part in ("train", "test") for level in ("fine", "coarse")}
    tensors["test_seen"] = torch.zeros(6, dtype=torch.bool)
    write_tensors(
        Path("data/labelled.safetensors"), tensors, {"fine_names": list("abcdef"), "coarse_names": list("uvwxyz")}
    )
    encoders = {}
    for seed, which in enumerate(("initial", "simclr"), 1):
        torch.manual_seed(seed)
        encoders[which] = Encoder("resnet18", "imagenet")
        write_tensors(Path(f"models/{which}.safetensors"), encoders[which].state_dict(), METADATA)
    return encoders


@pytest.mark.parametrize("weights", ["random", "imagenet"])
def test_the_controls_are_an_untrained_encoder_and_the_initial_one_if_it_has_imagenet_weights(
    weights: str, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "MAP_IMAGES", 5)
    encoders = write_inputs(weights)
    stage.main(load_params())
    features, metadata = read_tensors(Path("data/features.safetensors"))
    assert metadata["fine_names"] == list("abcdef")
    torch.manual_seed(0)
    if weights == "imagenet":
        before = {"untrained": Encoder("resnet18", "imagenet"), "imagenet": encoders["initial"]}
    else:
        before = {"untrained": encoders["initial"]}
    expected = before | {"simclr": encoders["simclr"]}
    assert metadata["encoders"] == ["pixels", *expected]
    for which, encoder in expected.items():
        assert torch.equal(features[f"test_{which}"], extract(encoder, random_images(6, 1), CPU).all())
    # The map has the same five images before and after SimCLR, with their classes.
    table = pd.read_csv("plots/data/maps.csv")
    assert table.encoder.tolist() == [list(expected)[-2]] * 5 + ["simclr"] * 5
    assert table.image[:5].is_unique
    assert table.image[:5].tolist() == table.image[5:].tolist()
    assert table["class"].tolist() == ["abcdef"[image] for image in table.image]
    assert table.superclass.tolist() == ["uvwxyz"[image] for image in table.image]


def test_features_that_are_not_finite_give_a_one_line_error(empty_folder: Path) -> None:
    encoder = write_inputs("random")["simclr"]
    nn.init.constant_(encoder.conv1.weight, torch.nan)
    write_tensors(Path("models/simclr.safetensors"), encoder.state_dict(), METADATA)
    line = refusal(stage.main, load_params())
    assert line.startswith("the encoder gives features that are not finite; pretrain again")
    assert not Path("data/features.safetensors").exists()


def test_missing_disk_space_is_reported_before_the_work(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs("random")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    monkeypatch.setattr(stage, "pixel_components", None)
    assert refusal(stage.main, load_params()).startswith("data: 0.00 GB are needed and 0.00 GB are free")
    assert not Path("data/features.safetensors").exists()
