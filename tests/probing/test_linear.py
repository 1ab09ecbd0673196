"""The source experiment's linear layer."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from stages.probing.linear import fit_linear
from stages.runtime.errors import UserError
from tests.probing.data import clusters


def test_it_learns_its_curve_ends_at_it_and_the_seed_decides() -> None:
    train, test = clusters(400), clusters(200, seed=1)
    settings = {"batch_size": 32, "epochs": 10, "lr": 0.05, "weight_decay": 1e-3}
    probe = fit_linear(train, test, **settings, seed=0)
    assert [row["split"] for row in probe.curve] == ["train", "test"] * 10
    assert probe.curve[-1]["accuracy"] > 0.9
    assert probe.curve[-1]["accuracy"] == pytest.approx(accuracy_score(test.y, probe.logits(test.x).argmax(1)))
    assert probe.curve == fit_linear(train, test, **settings, seed=0).curve
    assert probe.curve != fit_linear(train, test, **settings, seed=1).curve


def test_one_epoch_has_the_full_learning_rate() -> None:
    train = clusters(640)
    first, _ = fit_linear(train, train, batch_size=32, epochs=1, lr=0.05, weight_decay=0.0, seed=0).curve
    assert first["accuracy"] > 0.8


def test_a_layer_that_diverges_ends_in_one_line() -> None:
    data = clusters(200)
    with pytest.raises(UserError, match=r"^linear layer, epoch \d+: the loss is (nan|inf); a smaller") as stopped:
        fit_linear(data, data, batch_size=32, epochs=100, lr=10.0, weight_decay=1.0, seed=0)
    assert "\n" not in str(stopped.value)


def test_its_scores_are_float32() -> None:
    data = clusters(40)
    probe = fit_linear(data, data, batch_size=32, epochs=1, lr=0.05, weight_decay=0.0, seed=0)
    assert probe.logits(data.x).dtype == np.float32
