"""The measures of pretraining compared with sorting, loops and formulas."""

import math

import pytest
import torch

from stages.simclr.loss import cosine_similarities
from stages.simclr.monitoring import _health, contrastive_metrics, embedding_health


def random_z(rows: int) -> torch.Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))


def test_metrics_match_sorting_every_row() -> None:
    similarities = cosine_similarities(random_z(40))
    rows = similarities.tolist()
    ranks, positives, negatives = [], [], []
    for i, row in enumerate(rows):
        partner = (i + 20) % 40
        others = [j for j in range(40) if j != i]
        ranks.append(1 + sorted(others, key=lambda j, row=row: -row[j]).index(partner))
        positives.append(row[partner])
        negatives += [row[j] for j in others if j != partner]
    metrics = {name: value.item() for name, value in contrastive_metrics(similarities).items()}
    assert metrics == pytest.approx(
        {
            "top1": sum(rank == 1 for rank in ranks) / 40,
            "top5": sum(rank <= 5 for rank in ranks) / 40,
            "position": sum(ranks) / 40,
            "positive": sum(positives) / len(positives),
            "negative": sum(negatives) / len(negatives),
        },
        abs=1e-5,
    )


@pytest.mark.parametrize("similarity", [1.0, math.nan])
def test_equal_embeddings_and_nan_have_zero_contrastive_accuracy(similarity: float) -> None:
    metrics = contrastive_metrics(torch.full((8, 8), similarity))
    assert metrics["top1"] == 0
    assert metrics["position"] >= 7  # the last of seven candidates


def test_health_matches_the_definitions_written_as_loops() -> None:
    first, second = random_z(12).chunk(2)
    unit = [[[value / math.hypot(*row) for value in row] for row in z.double().tolist()] for z in (first, second)]
    pairs = [(i, j) for i in range(6) for j in range(i)]
    potential = [sum(math.exp(-2 * math.dist(z[i], z[j]) ** 2) for i, j in pairs) / len(pairs) for z in unit]
    health = embedding_health(first, second)
    assert health["alignment"] == pytest.approx(
        sum(math.dist(a, b) ** 2 for a, b in zip(*unit, strict=True)) / 6, rel=1e-5
    )
    assert health["uniformity"] == pytest.approx(sum(map(math.log, potential)) / 2, rel=1e-5)
    # The singular values are the roots of the eigenvalues of the Gram matrix.
    roots = torch.linalg.eigvalsh(first.double().T @ first.double()).sqrt()
    entropy = -sum(p * math.log(p) for p in (roots / roots.sum()).tolist())
    assert health["rank"] == pytest.approx(math.exp(entropy), rel=1e-4)


def test_health_by_pytorch_and_by_numpy_agrees() -> None:
    first, second = random_z(12).chunk(2)
    by_torch = _health(torch, lambda x: torch.pdist(x).square(), first, second)
    assert by_torch == pytest.approx(embedding_health(first, second), rel=1e-12)


@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
def test_collapsed_embeddings_have_rank_1_and_no_uniformity(row: list[float]) -> None:
    z = torch.tensor([row] * 8)
    health = embedding_health(z, z)
    assert health["rank"] == pytest.approx(1, rel=1e-4)
    assert (health["alignment"], health["uniformity"]) == pytest.approx((0, 0), abs=1e-6)


def test_health_of_embeddings_that_are_not_finite_is_nan() -> None:
    z = random_z(8)
    z[3, 1] = math.nan
    assert all(math.isnan(value) for value in embedding_health(z, z).values())
