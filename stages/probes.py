"""Linear probes on frozen features, and their scores: what `fit-logreg` does, without files.

Shapes: N images, D features, K classes.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import binomtest, norm
from sklearn.callback import ScoringMonitor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Generator, Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import MultiStepLR

CONFIDENCE = 0.95

Scores = dict[str, float]


@dataclass(frozen=True)
class Split:
    x: Tensor  # (N, D) features
    y: Tensor  # (N,) class numbers

    def first(self, classes: int) -> "Split":
        kept = self.y < classes
        return self if bool(kept.all()) else self.subset(kept)

    def subset(self, rows: Tensor) -> "Split":
        return Split(self.x[rows], self.y[rows])


@dataclass(frozen=True)
class Probe:
    scaler: StandardScaler
    model: LogisticRegression
    validation: dict[float, float]  # loss of every candidate for C
    curve: list[Scores]  # a row per iteration of L-BFGS, where they were watched

    @property
    def iterations(self) -> int:
        return int(self.model.n_iter_[0])

    @torch.inference_mode()
    def logits(self, x: Tensor) -> Tensor:
        """(N, D) features -> (N, K) class scores, whose softmax is the model's probability."""
        weight, bias = weights_of(self.model)
        return torch.from_numpy(self.scaler.transform(x.numpy())) @ weight.T + bias


def fit_probe(
    train: Split,
    C: list[float],
    validation_fraction: float,
    max_iter: int,
    seed: int,
    watched: Split | None = None,
) -> Probe:
    """Logistic regression on standardised features, C chosen on a stratified split of the training set.

    The features are standardised with the mean and deviation of all of `train`, which the model is fitted to in
    the end. watched: a split to score after every iteration, beside the training one, for the curve; it takes longer
    than the fit and has no influence on it.
    """
    scaler = StandardScaler().fit(train.x.numpy())
    x = standardised(train, scaler)
    validation = validate_C(x, C, validation_fraction, max_iter, seed)
    best = min(validation, key=validation.__getitem__)
    model, curve = fit_logreg(x, best, max_iter, watched and standardised(watched, scaler))
    return Probe(scaler, model, validation, curve)


def few_label_accuracies(
    draws: Sequence[Split], test: Split, C: list[float], validation_fraction: float, max_iter: int, seed: int
) -> list[float]:
    """Test accuracy of a probe for each of several draws of equally many training images.

    C is chosen on the first draw and kept for the others: which one is best depends on the number of images more than
    on the draw, and choosing takes four times as long as fitting.
    """
    first, *others = draws
    chosen = fit_probe(first, C, validation_fraction, max_iter, seed)
    probes = [chosen]
    for train in others:
        scaler = StandardScaler().fit(train.x.numpy())
        model, _ = fit_logreg(standardised(train, scaler), chosen.model.C, max_iter)
        probes.append(Probe(scaler, model, chosen.validation, []))
    return [(rank_of_truth(probe.logits(test.x), test.y) <= 1).float().mean().item() for probe in probes]


def standardised(split: Split, scaler: StandardScaler) -> Split:
    # As an array: of a tensor, scikit-learn would make float64, in which L-BFGS takes twice the time.
    return Split(torch.from_numpy(scaler.transform(split.x.numpy())), split.y)


def validate_C(
    train: Split, C: list[float], validation_fraction: float, max_iter: int, seed: int
) -> dict[float, float]:
    """The mean cross entropy (nats) of each C, in ascending order, on a stratified split of the training set.

    The loss and not the accuracy, which has ties, and moves by whole images where another processor rounds differently.
    Exits if the split cannot hold every class.
    """
    try:
        fit_x, held_x, fit_y, held_y = train_test_split(
            train.x.numpy(), train.y.numpy(), test_size=validation_fraction, stratify=train.y.numpy(), random_state=seed
        )
        if not len(np.unique(fit_y)) == len(np.unique(held_y)) == len(train.y.unique()):
            raise ValueError("a small class would be on one side only")
    except ValueError as error:
        sys.exit(
            f"params.yaml: logreg.validation_fraction = {validation_fraction}: {len(train.y)} training images cannot "
            f"be split so that both parts hold every class ({error})"
        )
    models = {c: LogisticRegression(C=c, max_iter=max_iter).fit(fit_x, fit_y) for c in sorted(C)}
    return {c: float(log_loss(held_y, model.predict_proba(held_x))) for c, model in models.items()}


def fit_logreg(
    train: Split, C: float, max_iter: int, test: Split | None = None
) -> tuple[LogisticRegression, list[Scores]]:
    """Logistic regression on the whole training set; with `test`, the scores after every iteration of L-BFGS."""

    model = LogisticRegression(C=C, max_iter=max_iter)
    if test is None:
        return model.fit(train.x.numpy(), train.y.numpy()), []

    def score(model: LogisticRegression, *_: Any) -> Scores:
        weight, bias = weights_of(model)
        return both_scores(lambda x: x @ weight.T + bias, train, test)

    monitor = ScoringMonitor(scoring=score)
    model.set_callbacks(monitor).fit(train.x.numpy(), train.y.numpy())
    iterations = [entry for entry in monitor.get_logs().data if entry["task_name"] == "lbfgs-iter"]
    curve = [
        {"iteration": number} | {name: entry[name] for name in entry if name.startswith(("train_", "test_"))}
        for number, entry in enumerate(iterations, 1)
    ]
    return model, curve


def weights_of(model: LogisticRegression) -> tuple[Tensor, Tensor]:
    """(K, D) and (K,): a row and a number for each class, whose softmax is the model's probability."""
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if len(weight) == 1:  # of two classes, scikit-learn keeps only the second
        return torch.cat([torch.zeros_like(weight), weight]), torch.cat([torch.zeros_like(bias), bias])
    return weight, bias


def fit_linear(
    train: Split, test: Split, batch_size: int, epochs: int, lr: float, weight_decay: float, seed: int
) -> tuple[nn.Linear, list[Scores]]:
    """The source experiment's linear layer, and its scores after every epoch. Exits where the loss is no number."""
    stream = Generator().manual_seed(seed)
    classes = int(train.y.max()) + 1
    layer = nn.Linear(train.x.shape[1], classes)
    bound = train.x.shape[1] ** -0.5  # torch's own initialisation, from this stream
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=stream)
    optimizer = AdamW(layer.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    schedule = MultiStepLR(optimizer, milestones=[math.ceil(epochs * 0.6), math.ceil(epochs * 0.8)], gamma=0.1)
    curve = []
    for epoch in range(1, epochs + 1):
        for batch in torch.randperm(len(train.y), generator=stream).split(batch_size):
            F.cross_entropy(layer(train.x[batch]), train.y[batch]).backward()
            optimizer.step()
            optimizer.zero_grad()
        schedule.step()
        scores = both_scores(layer, train, test)
        loss = scores["train_loss"]
        if not math.isfinite(loss):
            sys.exit(
                f"linear layer, epoch {epoch}: the loss is {loss}; a smaller linear.lr or weight_decay usually helps"
            )
        curve.append({"epoch": epoch} | scores)
    return layer, curve


@torch.inference_mode()
def both_scores(logits: Callable[[Tensor], Tensor], train: Split, test: Split) -> Scores:
    """Accuracy, top-5 accuracy and mean cross entropy (nats) on both splits. logits: (N, D) -> (N, K)."""
    result = {}
    for name, split in (("train", train), ("test", test)):
        z = logits(split.x)
        ranks = rank_of_truth(z, split.y)
        result[f"{name}_accuracy"] = (ranks <= 1).float().mean().item()
        result[f"{name}_top5"] = (ranks <= 5).float().mean().item()
        result[f"{name}_loss"] = F.cross_entropy(z, split.y).item()
    return result


def rank_of_truth(z: Tensor, y: Tensor) -> Tensor:
    """The rank of the true class among the scores (N, K), 1 at best: (N,). A NaN or a tie counts against it."""
    return (~(z < z.gather(1, y[:, None]))).sum(1)


def interval(accuracy: float, images: int) -> Scores:
    """The 95 % interval of an accuracy over so many test images (Wilson's score interval)."""
    low, high = binomtest(round(accuracy * images), images).proportion_ci(CONFIDENCE, method="wilson")
    return {"test_accuracy_low": float(low), "test_accuracy_high": float(high)}


def gains(right: Mapping[str, Tensor]) -> dict[str, Scores]:
    """What SimCLR gains over each other encoder. right: encoder -> (N,) bool, on the same test images."""
    return {control: paired_gain(right["simclr"], right[control]) for control in right if control != "simclr"}


def paired_gain(right: Tensor, right_of_control: Tensor) -> Scores:
    """How much more often one probe is right than another on the same N test images, with its 95 % interval.

    right, right_of_control: (N,) bool. Agresti and Min (2005): a Wald interval for paired proportions after adding half
    an image to each cell of the 2 x 2 table. Images that both get right or wrong tell nothing about the difference, so
    it is narrower than two intervals of their own suggest.
    """
    images = len(right) + 2
    won, lost = (int((a & ~b).sum()) + 0.5 for a, b in ((right, right_of_control), (right_of_control, right)))
    middle = (won - lost) / images
    half = norm.ppf(0.5 + CONFIDENCE / 2) * math.sqrt(won + lost - (won - lost) ** 2 / images) / images
    return {
        "test_accuracy": (won - lost) / len(right),
        "test_accuracy_low": max(-1.0, float(middle - half)),
        "test_accuracy_high": min(1.0, float(middle + half)),
    }


def draw_labels(y: Tensor, per_class: int, seed: list[int]) -> Tensor:
    """Indices of so many random images of each class: (N,) class numbers -> (K * per_class,)."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))
    return torch.cat([order[y[order] == label][:per_class] for label in y.unique()])
