"""The linear layer of the reference experiment."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from stages.probes.linear import LinearLayer
from stages.probing.probe import Curve
from stages.runtime.errors import UserError
from tests.probing.data import clusters

SETTINGS = {"batch_size": 32, "lr": 0.05, "weight_decay": 1e-3}


def test_the_layer_learns_its_curve_ends_at_its_score_and_the_seed_determines_it() -> None:
    train, test = clusters(400), clusters(200, seed=1)
    curves = [Curve(train, test) for _ in range(3)]
    for curve, seed in zip(curves, (0, 0, 1), strict=True):
        probe = LinearLayer(**SETTINGS, epochs=10, seed=seed, curve=curve).fit(train.x, train.y)
    rows = curves[-1].rows
    assert [row["split"] for row in rows] == ["train", "test"] * 10
    assert rows[-1]["accuracy"] > 0.9
    z = probe.decision_function(test.x)
    assert z.dtype == np.float32
    assert rows[-1]["accuracy"] == pytest.approx(accuracy_score(test.y, z.argmax(1)))
    assert curves[0].rows == curves[1].rows != rows


def test_a_single_epoch_uses_the_full_learning_rate() -> None:
    train = clusters(640)
    probe = LinearLayer(**SETTINGS, epochs=1, seed=0).fit(train.x, train.y)
    assert accuracy_score(train.y, probe.decision_function(train.x).argmax(1)) > 0.8


def test_a_layer_that_diverges_gives_a_one_line_error() -> None:
    data = clusters(200)
    with pytest.raises(UserError, match=r"^linear layer, epoch \d+: the loss is (nan|inf); a smaller") as stopped:
        LinearLayer(batch_size=32, epochs=100, lr=10.0, weight_decay=1.0, seed=0).fit(data.x, data.y)
    assert "\n" not in str(stopped.value)
