"""Stage `export`: encoder and classifier as one file that takes pictures as they are.

Reads   models/simclr.safetensors, models/classifier.safetensors
Writes  models/simclr.onnx   `images` (N, H, W, 3) uint8, RGB of any size -> `features` (N, D), `probabilities` (N, K)

Shapes: N images of H x W pixels, S the image size of the training, D features, K classes.
"""

import json
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from stages.files.contract import contract
from stages.files.inputs import inputs_must_not_change
from stages.files.params import load_params
from stages.files.tensors import read_tensors
from stages.files.writing import write_bytes

OPSET = 18  # the first whose Resize can be antialiased


def main(made_of: dict[str, str]) -> None:
    params = load_params()
    state, encoder = read_tensors(Path("models/simclr.safetensors"))
    parameters, classifier = read_tensors(Path("models/classifier.safetensors"))
    stem, side = encoder["stem"], encoder["image_size"]
    model = PictureModel(resnet18(state, stem), parameters["weight"], parameters["bias"], side).eval()
    notes = contract(
        "ResNet-18 and logistic regression",
        made_of,
        stem=stem,
        input="images (N, H, W, 3): RGB of 8 bits; cut to the square in the middle and scaled to image_size inside",
        image_size=side,
        pixel_range=params.pixel_range,
        classes=classifier["classes"],
        encoder=encoder,
        classifier=classifier,
    )
    write_bytes(Path("models/simclr.onnx"), as_onnx(model, notes))


class PictureModel(nn.Module):
    """The whole way from a picture to its probabilities."""

    def __init__(self, encoder: nn.Module, weight: Tensor, bias: Tensor, side: int) -> None:
        """encoder: (N, 3, S, S) pixels in [0, 1] -> (N, D); weight: (K, D); bias: (K,)."""
        super().__init__()
        self.encoder, self.side = encoder, side
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, H, W, 3) uint8 -> features (N, D), probabilities (N, K)."""
        height, width = images.shape[1:3]
        shorter = torch.sym_min(height, width)
        top, left = (height - shorter) // 2, (width - shorter) // 2
        square = images[:, top : top + shorter, left : left + shorter].permute(0, 3, 1, 2)
        torch._check(square.shape[2] > 0)  # the exporter can't know
        torch._check(square.shape[3] > 0)
        scaled = F.interpolate(square.float(), (self.side, self.side), mode="bicubic", antialias=True)
        features = self.encoder(scaled.round().clamp(0, 255) / 255)
        return features, F.linear(features, self.weight, self.bias).softmax(1)


def resnet18(state: dict[str, Tensor], stem: str) -> nn.Module:
    """torchvision's own network with the encoder's weights: (N, 3, S, S) pixels in [0, 1] -> (N, D)."""
    model = torchvision.models.resnet18()
    model.fc = nn.Identity()
    if stem == "cifar":
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    model.load_state_dict(state)
    return model.eval()


def as_onnx(model: PictureModel, notes: dict[str, Any]) -> bytes:
    """The same bytes for the same weights and notes."""
    size = {0: torch.export.Dim("N"), 1: torch.export.Dim("H"), 2: torch.export.Dim("W")}
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 40, 50, 3, dtype=torch.uint8),),
        input_names=["images"],
        output_names=["features", "probabilities"],
        opset_version=OPSET,
        dynamic_shapes={"images": size},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    file = program.model_proto
    # What the exporter notes of its work: the build of PyTorch and lines of code.
    file.ClearField("producer_version")
    for part in (file, file.graph, *file.graph.node, *file.graph.value_info, *file.graph.initializer):
        part.ClearField("metadata_props")
    onnx.helper.set_model_props(file, {"notes": json.dumps(notes, sort_keys=True)})
    onnx.checker.check_model(file)
    return file.SerializeToString(deterministic=True)


if __name__ == "__main__":
    with inputs_must_not_change("export") as made_of:
        main(made_of)
