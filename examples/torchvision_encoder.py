"""Loads the encoder into torchvision and extracts the features of an 8-bit picture without transparency.

Run from the root of the repository, after `dvc repro`: python examples/torchvision_encoder.py PICTURE
"""

import sys

import torch
import torchvision
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torchvision.transforms import v2

if len(sys.argv) != 2:
    sys.exit(__doc__)
encoder = torchvision.models.resnet18()
encoder.fc = torch.nn.Identity()
# With `stem: cifar` also:
# encoder.conv1, encoder.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
encoder.load_state_dict(load_file("models/simclr.safetensors"))
encoder.eval()

picture = v2.functional.pil_to_tensor(ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB"))
square = v2.functional.center_crop(picture, min(picture.shape[1:]))
pixels = v2.functional.resize(square, [32, 32], v2.InterpolationMode.BICUBIC) / 255  # image_size; no mean or deviation
with torch.inference_mode():
    print(encoder(pixels[None]).shape)
