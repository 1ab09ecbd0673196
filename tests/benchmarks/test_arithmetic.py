"""The arithmetic that a training step needs, for the bound on the speed."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.arithmetic import needed_flop, simclr_step_flop, taps_on_data


@pytest.mark.parametrize("side", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 2, 0), (7, 2, 3)])
def test_taps_on_data_are_the_sum_of_a_convolution_of_ones(side: int, kernel: int, stride: int, padding: int) -> None:
    ones = torch.nn.functional.conv1d(torch.ones(1, 1, side), torch.ones(1, 1, kernel), stride=stride, padding=padding)
    assert taps_on_data(side, kernel, stride, padding) == ones.sum()


def test_without_padding_the_count_is_pytorchs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, 2), nn.Flatten(), nn.Linear(16, 5))
    x = torch.zeros(2, 3, 8, 8)
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    assert needed_flop(model, x) == counter.get_total_flops()


def test_a_step_needs_less_arithmetic_than_stock_convolutions() -> None:
    """0.13 GFLOP per view, as in benchmarks/README.md; with the taps on padding it would be 0.22."""
    assert simclr_step_flop("imagenet", 128, 256) / 512 == pytest.approx(0.13e9, rel=0.05)
