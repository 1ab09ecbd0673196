"""Stage `extract-features`: the labelled images as frozen features h, of the encoder after SimCLR and of its controls.

The projection head is gone (section 4.2 of the paper: h serves better than z). No augmentation, every image once.
The controls: the encoder as it was before SimCLR, an untrained one where that had ImageNet's weights, and the pixels
themselves, in as many numbers by a PCA of the training images.

Reads   data/labelled.safetensors, models/initial.safetensors, models/simclr.safetensors
Writes  data/features.safetensors   {train,test}_{pixels,untrained,initial,simclr} (N, 512) float32, the fine and coarse
                                    labels, and as notes the names of the encoders and of the classes
"""

import copy
import math
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import hadamard
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm

from stages.encoder import FEATURES, Encoder
from stages.files import one_line, read_tensors, require_room, write_tensors
from stages.params import load_params
from stages.provenance import unchanged

BATCH = 512
PARTS = ("train", "test")
LABELS = ("train_fine", "train_coarse", "test_fine", "test_coarse")


def main() -> None:
    params = load_params()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    labelled, names = read_tensors(Path("data/labelled.safetensors"))
    train, test = (labelled[f"{part}_images"] for part in PARTS)

    encoders = {}
    if params.weights == "imagenet":  # else the initial encoder is an untrained one
        torch.manual_seed(params.seed)
        encoders["untrained"] = Encoder(params.stem)
    encoders |= {
        which: load_encoder(Path(f"models/{which}.safetensors"), params.stem) for which in ("initial", "simclr")
    }

    # Once more in DVC's cache.
    require_room(Path("data"), 2 * 4 * FEATURES * (len(train) + len(test)) * (1 + len(encoders)))
    features = {"pixels": pixel_components(train, test)}
    for which, encoder in encoders.items():
        features[which] = extract(encoder, train, device), extract(encoder, test, device)
        if not all(bool(h.isfinite().all()) for h in features[which]):
            advice = (
                "pretrain again, with a smaller lr" if which == "simclr" else "`dvc repro -f download` makes it anew"
            )
            sys.exit(f"features of the encoder {which} are no numbers; {advice}")
    tensors = {f"{part}_{which}": h for which, both in features.items() for part, h in zip(PARTS, both, strict=True)}
    labels = {name: labelled[name] for name in LABELS}
    write_tensors(Path("data/features.safetensors"), tensors | labels, {"encoders": list(features), **names})


def load_encoder(path: Path, stem: str) -> Encoder:
    """Exits with one line if the file holds something else."""
    encoder = Encoder(stem)
    try:
        encoder.load_state_dict(read_tensors(path)[0])
    except RuntimeError as error:
        sys.exit(f"{path}: is not an encoder with stem = {stem} ({one_line(error)}); `dvc repro` restores it")
    return encoder


def pixel_components(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels in [0, 1] in the space of the first D principal axes of the training images: (N, H, W, 3) -> (N, D).

    On axes of that space that all have the same variance, by a Hadamard matrix, which changes no distance: the probes
    standardise what they get, and on the principal axes themselves that would make the last ones, which are noise, as
    large as the first (46 % instead of 69 % on the sample's first ten classes).
    """

    def rows(images: Tensor) -> np.ndarray:
        return images.flatten(1).float().div_(255).numpy()

    # Both are exact; which is faster depends on what there is more of.
    shape = train.flatten(1).shape
    solver = "covariance_eigh" if shape[0] > shape[1] else "full"
    components = min(FEATURES, shape[0] - 1, shape[1])  # N centred rows have N - 1 dimensions
    pca = PCA(components, svd_solver=solver).fit(rows(train))
    turn = hadamard(FEATURES, dtype=np.float32)[:components] / np.float32(math.sqrt(FEATURES))
    on_train, on_test = (torch.from_numpy(pca.transform(rows(images)) @ turn) for images in (train, test))
    return on_train, on_test


def folded(encoder: nn.Module) -> nn.Module:
    """A copy to evaluate with every BatchNorm made part of the convolution before it: the same function, faster.

    Expects each BatchNorm to be registered right after its convolution, as in ResNets.
    """
    encoder = copy.deepcopy(encoder).eval()
    for parent in encoder.modules():
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())
    return encoder


@torch.inference_mode()
def extract(encoder: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, D) float32; the encoder's weights and BatchNorm statistics stay as they are."""
    frozen = folded(encoder).to(device)
    batches = tqdm(images.split(BATCH), unit=" batches", disable=None, leave=False)
    return torch.cat([frozen(batch.to(device).permute(0, 3, 1, 2)).cpu() for batch in batches])


if __name__ == "__main__":
    with unchanged("extract-features"):
        main()
