"""Loads the encoder into timm, for example to fine-tune it. Run from the root of the repository, after `dvc repro`."""

import timm
import torch
from safetensors.torch import load_file

encoder = timm.create_model("resnet18", num_classes=0)  # options that change no weights, such as global_pool, work, too
encoder.load_state_dict(load_file("models/simclr.safetensors"))
print(encoder.eval()(torch.rand(2, 3, 32, 32)).shape)  # RGB in [0, 1], scaled to image_size
