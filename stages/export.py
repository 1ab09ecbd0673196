"""Stage `export`: encoder and classifier in one ONNX file that takes pictures of any size.

`images` (N, H, W, 3) uint8 RGB -> `features` (N, D), `probabilities` (N, K)

Shapes: N images of H x W pixels, S the image size of the training, D features, K classes.
"""

import json
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.io.tensors import FORMAT, read_tensors
from stages.io.writing import write_bytes
from stages.runtime.params import PixelRange, StageParams
from stages.simclr.encoder import load_encoder

OPSET = 18  # the first with antialiasing in Resize


class Params(StageParams):
    pixel_range: PixelRange


def main(params: Params) -> None:
    network, encoder = load_encoder(Path("models/simclr.safetensors"))
    parameters, classifier = read_tensors(Path("models/classifier.safetensors"))
    network.set_3x3_convolutions(nn.Conv2d)
    side = encoder["image_size"]
    metadata = {
        "format": FORMAT,
        "input": "images (N, H, W, 3): RGB of 8 bits; cut to the square in the middle and scaled to image_size inside",
        "image_size": side,
        "pixel_range": params.pixel_range,
        "classes": classifier["classes"],
        "encoder": encoder,
        "classifier": classifier,
    }
    model = PictureModel(network, parameters["weight"], parameters["bias"], side).eval()
    write_bytes(Path("models/simclr.onnx"), as_onnx(model, metadata))


class PictureModel(nn.Module):
    """From pictures to class probabilities."""

    def __init__(self, encoder: nn.Module, weight: Tensor, bias: Tensor, side: int) -> None:
        """encoder: (N, 3, S, S) pixels 0..255 -> (N, D); weight: (K, D); bias: (K,)."""
        super().__init__()
        self.encoder, self.side = encoder, side
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, H, W, 3) uint8 -> features (N, D), probabilities (N, K)."""
        height, width = images.shape[1:3]
        shorter = torch.sym_min(height, width)
        top, left = (height - shorter) // 2, (width - shorter) // 2
        square = images[:, top : top + shorter, left : left + shorter].permute(0, 3, 1, 2)
        torch._check(square.shape[2] > 0)  # the exporter cannot infer this
        torch._check(square.shape[3] > 0)
        scaled = F.interpolate(square.float(), (self.side, self.side), mode="bicubic", antialias=True)
        features = self.encoder(scaled.round().clamp(0, 255))
        return features, F.linear(features, self.weight, self.bias).softmax(1)


def as_onnx(model: PictureModel, metadata: dict[str, Any]) -> bytes:
    """The model as ONNX; the same weights and metadata give the same bytes."""
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
    # Remove what the exporter records about itself: the build of PyTorch and source lines.
    file.ClearField("producer_version")
    for part in (file, file.graph, *file.graph.node, *file.graph.value_info, *file.graph.initializer):
        part.ClearField("metadata_props")
    onnx.helper.set_model_props(file, {"notes": json.dumps(metadata, sort_keys=True)})
    onnx.checker.check_model(file)
    return file.SerializeToString(deterministic=True)
