"""The encoder in timm, to fine-tune it, say. Run from the root of the repository, after `dvc repro`."""

import timm
import torch
from safetensors.torch import load_file

encoder = timm.create_model("resnet18", num_classes=0)  # in_chans, global_pool ... as ever
encoder.load_state_dict(load_file("models/simclr.safetensors"))
print(encoder.eval()(torch.rand(2, 3, 32, 32)).shape)  # RGB in [0, 1], of image_size
