"""Stage `extract-features`: frozen features h of the labelled images, from the encoder after SimCLR and its controls.

The projection head is not used (section 4.2 of the paper: h gives better features than z), and nothing is augmented.
The controls are the raw pixels, an untrained encoder and, if pretraining started from ImageNet's weights, that encoder.

data/features.safetensors has {train,test}_{pixels,untrained,imagenet,simclr} (N, D) float32, fine and coarse labels,
`test_seen` (duplicates of earlier images) and, as metadata, the names of the encoders and classes.
"""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from stages.features.extraction import extract
from stages.features.maps import tsne
from stages.features.params import ExtractParams as Params
from stages.features.pixels import pixel_components
from stages.io.tensors import Rows, Stream, open_tensors, write_tensors
from stages.io.writing import require_room, write_table
from stages.simclr.distributed import processes, rank
from stages.simclr.encoder import Encoder, load_encoder

SPLITS = ("train", "test")
FEATURES_FILE = Path("data/features.safetensors")
LABELS = ("train_fine", "train_coarse", "test_fine", "test_coarse", "test_seen")
MAP_IMAGES = 1000  # enough to see the groups; t-SNE takes seconds


def main(params: Params) -> None:
    # On a GPU: full float32 precision, as on the CPU, and the same bytes in every run.
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    with processes() as device:
        extract_features(params, device)


def extract_features(params: Params, device: torch.device) -> None:
    labelled, names = open_tensors(Path("data/labelled.safetensors"))
    train, test = (labelled[f"{split}_images"] for split in SPLITS)

    initial, metadata = load_encoder(Path("models/initial.safetensors"))
    encoders = {"untrained": initial}
    if params.weights == "imagenet":
        torch.manual_seed(params.seed)
        encoders = {"untrained": Encoder(metadata["backbone"], metadata["stem"]), "imagenet": initial}
    encoders["simclr"], _ = load_encoder(Path("models/simclr.safetensors"))

    # Twice, because DVC keeps a copy in its cache.
    require_room(Path("data"), 2 * 4 * initial.features * (len(train) + len(test)) * (1 + len(encoders)))
    features = {
        name: tuple(extract(encoder, images, device) for images in (train, test)) for name, encoder in encoders.items()
    }
    if rank() > 0:  # the other processes only take part in the extraction
        for stream in chain(*features.values()):
            deque(stream.chunks, maxlen=0)
        return
    features["pixels"] = pixel_components(train, test, initial.features)
    labels = {name: labelled[name].all() for name in LABELS}
    tensors: dict[str, Tensor | Stream] = {**labels}
    for name, both in features.items():
        tensors |= {f"{split}_{name}": h for split, h in zip(SPLITS, both, strict=True)}
    write_tensors(FEATURES_FILE, tensors, {"encoders": ["pixels", *encoders], **names})

    before = "imagenet" if "imagenet" in encoders else "untrained"
    written = open_tensors(FEATURES_FILE)[0]
    shown = {name: written[f"test_{name}"] for name in (before, "simclr")}
    write_table(Path("plots/data/maps.csv"), map_table(shown, labels, names, params.seed))


def map_table(
    features: dict[str, Rows], labels: dict[str, Tensor], names: dict[str, list[str]], seed: int
) -> pd.DataFrame:
    """t-SNE of random test images for each encoder, with their classes and superclasses."""
    images = np.random.default_rng(seed).permutation(len(labels["test_fine"]))[:MAP_IMAGES]
    # One thread per map. OpenBLAS' limit is set here for the process; `tsne` sets OpenMP's, which is per thread.
    with threadpool_limits(1), ThreadPoolExecutor(len(features)) as threads:
        maps = threads.map(lambda h: tsne(h[images], seed), features.values())
        return pd.concat(
            pd.DataFrame(
                {
                    "encoder": encoder,
                    "image": images,
                    "class": np.array(names["fine_names"])[labels["test_fine"][images]],
                    "superclass": np.array(names["coarse_names"])[labels["test_coarse"][images]],
                    "x": points[:, 0],
                    "y": points[:, 1],
                }
            )
            for encoder, points in zip(features, maps, strict=True)
        )
