"""NT-Xent compared with the paper's algorithm and with formulas."""

import math

import pytest
import torch

from stages.simclr.loss import cosine_similarities, nt_xent


def random_z() -> torch.Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(0))


def loss_of_algorithm_1(z: torch.Tensor, temperature: float) -> float:
    """Chen et al. 2020, algorithm 1, with loops and Python floats."""
    rows = z.double().tolist()
    views, half = len(rows), len(rows) // 2

    def s(i: int, j: int) -> float:
        return sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) / math.hypot(*rows[i]) / math.hypot(*rows[j])

    def pair(i: int, j: int) -> float:
        others = sum(math.exp(s(i, k) / temperature) for k in range(views) if k != i)
        return -math.log(math.exp(s(i, j) / temperature) / others)

    return sum(pair(k, k + half) + pair(k + half, k) for k in range(half)) / views


@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
def test_nt_xent_matches_the_double_loop_of_algorithm_1(temperature: float) -> None:
    loss = nt_xent(cosine_similarities(random_z()), temperature).item()
    assert loss == pytest.approx(loss_of_algorithm_1(random_z(), temperature), rel=1e-5)


def test_similarities_of_bfloat16_embeddings_are_float32() -> None:
    similarities = cosine_similarities(random_z().bfloat16())
    assert similarities.dtype == torch.float32
    torch.testing.assert_close(similarities.diagonal(), torch.ones(8))
