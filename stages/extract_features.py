"""Stage `extract-features`: the labelled images as frozen features h, of the encoder before and after SimCLR.

The projection head is gone (section 4.2 of the paper: h serves better than z). No augmentation, every image once.

Reads   data/labelled.safetensors, models/initial.safetensors, models/simclr.safetensors
Writes  features/initial.safetensors, features/simclr.safetensors: {train,test}_features (N, 512) float32, with the
        fine and coarse labels and the names of the classes
"""

import copy
import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm

from stages.encoder import Encoder
from stages.files import one_line, read_tensors, write_tensors
from stages.params import load_params
from stages.provenance import unchanged

BATCH = 512
LABELS = ("train_fine", "train_coarse", "test_fine", "test_coarse")


def main() -> None:
    params = load_params()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    labelled, names = read_tensors(Path("data/labelled.safetensors"))
    for which in ("initial", "simclr"):
        encoder = Encoder(params.stem)
        path = Path(f"models/{which}.safetensors")
        try:
            encoder.load_state_dict(read_tensors(path)[0])
        except RuntimeError as error:
            sys.exit(
                f"{path}: is not an encoder with stem = {params.stem} ({one_line(error)}); `dvc repro` restores it"
            )
        features = {
            f"{part}_features": extract(encoder, labelled[f"{part}_images"], device) for part in ("train", "test")
        }
        if not all(bool(x.isfinite().all()) for x in features.values()):
            sys.exit(f"{path}: gives features that are no numbers; pretrain again, with a smaller lr")
        labels = {name: labelled[name] for name in LABELS}
        write_tensors(Path(f"features/{which}.safetensors"), features | labels, names)


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
