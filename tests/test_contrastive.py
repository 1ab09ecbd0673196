"""NT-Xent and the retrieval metrics against the paper's algorithm and against mathematics."""

import math

import pytest
import torch

from stages.contrastive import (
    contrastive_metrics,
    cosine_similarities,
    effective_rank,
    embedding_health,
    nt_xent,
    projection_head,
    uniformity,
)


def random_z(views: int = 8, size: int = 5) -> torch.Tensor:
    return torch.randn(views, size, generator=torch.Generator().manual_seed(0))


def loss_of_algorithm_1(z: torch.Tensor, temperature: float) -> float:
    """Chen et al. 2020, algorithm 1, with loops and Python floats."""
    rows = z.double().tolist()
    views, half = len(rows), len(rows) // 2

    def s(i: int, j: int) -> float:
        dot = sum(a * b for a, b in zip(rows[i], rows[j], strict=True))
        return dot / math.sqrt(sum(a * a for a in rows[i])) / math.sqrt(sum(b * b for b in rows[j]))

    def pair(i: int, j: int) -> float:
        others = sum(math.exp(s(i, k) / temperature) for k in range(views) if k != i)
        return -math.log(math.exp(s(i, j) / temperature) / others)

    return sum(pair(k, k + half) + pair(k + half, k) for k in range(half)) / views


@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
def test_nt_xent_matches_the_double_loop_of_algorithm_1(temperature: float) -> None:
    z = random_z()
    assert nt_xent(cosine_similarities(z), temperature).item() == pytest.approx(
        loss_of_algorithm_1(z, temperature), rel=1e-5
    )


def test_identical_embeddings_cost_log_2b_minus_1() -> None:
    z = torch.ones(12, 3)
    assert nt_xent(cosine_similarities(z), 0.07).item() == pytest.approx(math.log(11), rel=1e-5)


def test_orthogonal_pairs_cost_what_the_formula_says() -> None:
    z = torch.eye(4).repeat(2, 1)  # partners agree (cosine 1), all others are orthogonal (cosine 0)
    expected = math.log(1 + 6 * math.exp(-1 / 0.5))
    assert nt_xent(cosine_similarities(z), 0.5).item() == pytest.approx(expected, rel=1e-5)


def test_length_of_embeddings_does_not_matter() -> None:
    z = random_z()
    scaled = z * torch.rand(8, 1).add(0.1)
    torch.testing.assert_close(cosine_similarities(scaled), cosine_similarities(z))


def test_metrics_match_sorting_every_row() -> None:
    z = random_z(views=40, size=3)
    similarities = cosine_similarities(z)
    ranks, positives, negatives = [], [], []
    for i in range(40):
        partner = (i + 20) % 40
        others = [j for j in range(40) if j != i]
        ranks.append(1 + sorted(others, key=lambda j: -similarities[i, j].item()).index(partner))
        positives.append(similarities[i, partner].item())
        negatives += [similarities[i, j].item() for j in others if j != partner]
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


def test_collapsed_embeddings_find_no_partner() -> None:
    metrics = contrastive_metrics(torch.ones(8, 8))
    assert metrics["top1"] == 0
    assert metrics["position"] == 7


def test_embeddings_that_are_no_numbers_find_no_partner() -> None:
    assert contrastive_metrics(torch.full((8, 8), math.nan))["top1"] == 0


def test_projection_head_is_the_source_experiments() -> None:
    assert [tuple(layer.weight.shape) for layer in projection_head(512, 128)[::2]] == [(512, 512), (128, 512)]


def test_health_matches_the_definitions_written_as_loops() -> None:
    first, second = random_z(6, 3), random_z(12, 3)[6:]
    unit = [[[value / math.hypot(*row) for value in row] for row in z.double().tolist()] for z in (first, second)]
    pairs = [(i, j) for i in range(6) for j in range(i)]
    potential = [sum(math.exp(-2 * math.dist(z[i], z[j]) ** 2) for i, j in pairs) / len(pairs) for z in unit]
    health = embedding_health(first, second)
    assert health["alignment"].item() == pytest.approx(
        sum(math.dist(a, b) ** 2 for a, b in zip(*unit, strict=True)) / 6, rel=1e-5
    )
    assert health["uniformity"].item() == pytest.approx(sum(map(math.log, potential)) / 2, rel=1e-5)
    # The singular values are the roots of the eigenvalues of the Gram matrix.
    roots = torch.linalg.eigvalsh(first.double().T @ first.double()).sqrt()
    entropy = -sum(p * math.log(p) for p in (roots / roots.sum()).tolist())
    assert health["rank"].item() == pytest.approx(math.exp(entropy), rel=1e-4)


def test_orthogonal_embeddings_have_full_rank_and_uniformity_minus_4() -> None:
    assert effective_rank(torch.eye(7)).item() == pytest.approx(7, rel=1e-4)
    assert uniformity(torch.eye(7)).item() == pytest.approx(-4)  # every squared distance is 2


@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
def test_collapsed_embeddings_have_rank_1_and_no_uniformity(row: list[float]) -> None:
    z = torch.tensor([row] * 8)
    health = embedding_health(z, z)
    assert health["rank"].item() == pytest.approx(1, rel=1e-4)
    assert (health["alignment"].item(), health["uniformity"].item()) == pytest.approx((0, 0), abs=1e-6)


def test_health_of_embeddings_that_are_no_numbers_is_no_number() -> None:
    z = random_z()
    z[3, 1] = math.nan
    assert all(math.isnan(value.item()) for value in embedding_health(z, z).values())
