"""The arithmetic that a training step needs, to compare its time with that of plain matrix products."""

import torch
from torch import Tensor, nn

from stages.simclr.model import SimCLR


def taps_on_data(side: int, kernel: int, stride: int, padding: int) -> int:
    """The number of kernel taps on data, not on padding, over all output positions along one axis of `side` pixels."""
    outputs = (side + 2 * padding - kernel) // stride + 1
    return sum(0 <= stride * output - padding + tap < side for output in range(outputs) for tap in range(kernel))


def needed_flop(model: nn.Module, x: Tensor) -> int:
    """FLOP of all convolutions and linear layers, forward and backward, on a batch x that needs no gradient."""
    products = 0

    def count(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal products
        if isinstance(layer, nn.Conv2d):
            height, width = (
                taps_on_data(side, layer.kernel_size[axis], layer.stride[axis], int(layer.padding[axis]))
                for axis, side in enumerate(given[0].shape[2:])
            )
            forward = len(output) * height * width * layer.in_channels * layer.out_channels
        else:
            forward = output.numel() * given[0].shape[1]
        # The backward pass has a product of this size for the weights and, except in the first layer, for the input.
        products += (3 if given[0].requires_grad else 2) * forward

    hooks = [
        layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return 2 * products


def simclr_step_flop(stem: str, projection_dim: int, batch_size: int) -> int:
    """FLOP of a whole step on 32x32 images: encoder, projection head and similarities."""
    views = 2 * batch_size
    similarities = 3 * 2 * views**2 * projection_dim
    model = SimCLR("resnet18", stem, projection_dim)
    return needed_flop(model, torch.zeros(2, 3, 32, 32)) * batch_size + similarities
