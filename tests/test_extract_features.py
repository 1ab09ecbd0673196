"""The controls beside SimCLR's features (the extraction itself is tested with the encoder)."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stages import extract_features as stage
from stages.encoder import Encoder
from stages.extract_features import extract, pixel_components
from stages.files import read_tensors, write_tensors


def images(count: int, seed: int) -> torch.Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=stream)


def test_pixel_components_keep_distances_and_have_equal_variances() -> None:
    # 20 images lie in 19 dimensions, so 19 components hold all of them.
    train, test = pixel_components(images(20, 0), images(5, 1))
    assert (train.shape, test.shape) == ((20, 512), (5, 512))
    pixels = images(20, 0).flatten(1).double() / 255
    torch.testing.assert_close(torch.cdist(train, train).double(), torch.cdist(pixels, pixels), rtol=1e-3, atol=1e-3)
    # With as many components as dimensions, test images too are where they are, up to what no training image has.
    projected = (images(5, 1).flatten(1).double() / 255 - pixels.mean(0)) @ torch.linalg.pinv(pixels - pixels.mean(0))
    on_train = projected @ (pixels - pixels.mean(0))
    torch.testing.assert_close(torch.cdist(test, test).double(), torch.cdist(on_train, on_train), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(train.std(0), train.std(0).mean().expand(512), rtol=1e-3, atol=1e-5)


def test_components_come_from_the_training_images_alone() -> None:
    train, _ = pixel_components(images(20, 0), images(5, 1))
    again, _ = pixel_components(images(20, 0), images(7, 2))
    assert torch.equal(train, again)


def write_inputs(weights: str) -> dict[str, Encoder]:
    """Parameters, twelve labelled images and two encoders, which are returned."""
    params = (Path(__file__).parent.parent / "params.yaml").read_text()
    Path("params.yaml").write_text(params.replace("weights: random", f"weights: {weights}"))
    labels = torch.arange(6)
    tensors = {f"{part}_images": images(6, seed) for seed, part in enumerate(("train", "test"))}
    tensors |= {f"{part}_{level}": labels.clone() for part in ("train", "test") for level in ("fine", "coarse")}
    write_tensors(Path("data/labelled.safetensors"), tensors, {"fine_names": list("abcdef")})
    encoders = {}
    for seed, which in enumerate(("initial", "simclr"), 1):
        torch.manual_seed(seed)
        encoders[which] = Encoder("imagenet")
        write_tensors(Path(f"models/{which}.safetensors"), encoders[which].state_dict())
    return encoders


@pytest.mark.parametrize("weights", ["random", "imagenet"])
def test_an_untrained_encoder_is_a_control_where_the_initial_one_is_not(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    encoders = write_inputs(weights)
    stage.main()
    features, notes = read_tensors(Path("data/features.safetensors"))
    assert notes["fine_names"] == list("abcdef")
    torch.manual_seed(0)
    expected = {"untrained": Encoder("imagenet")} | encoders if weights == "imagenet" else encoders
    assert notes["encoders"] == ["pixels", *expected]
    for which, encoder in expected.items():
        assert torch.equal(features[f"test_{which}"], extract(encoder, images(6, 1), torch.device("cpu")))


def test_too_little_room_is_noticed_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_inputs("random")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    monkeypatch.setattr(stage, "pixel_components", None)
    with pytest.raises(SystemExit, match=r"^data: 0\.00 GB are needed and 0\.00 GB are free"):
        stage.main()
    assert not Path("data/features.safetensors").exists()


def test_an_encoder_file_with_other_tensors_is_refused_in_one_line(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", {"weight": torch.zeros(3)})
    with pytest.raises(SystemExit, match=r"x\.safetensors: is not an encoder with stem = imagenet") as stopped:
        stage.load_encoder(tmp_path / "x.safetensors", "imagenet")
    assert "\n" not in str(stopped.value.code)
