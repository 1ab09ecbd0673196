"""The parameters of `download`."""

from typing import Annotated

from pydantic import Field

from stages.runtime.params import Backbone, Data, PathText, PixelRange, Seed, StageParams, Weights

UNLABELLED_IMAGES = {"sample": 2304, "cifar": 50_000}  # images for pretraining; those in a folder are counted


class DownloadParams(StageParams):
    backbone: Backbone
    data: Data
    folder: PathText
    image_size: Annotated[int, Field(ge=32, le=512, multiple_of=32)]
    mirror: PathText | None
    pixel_range: PixelRange
    seed: Seed
    weights: Weights
