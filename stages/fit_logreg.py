"""Stage `fit-logreg`: linear probes on the frozen features of both encoders.

1. scikit-learn's LogisticRegression, for all classes and for the first ones. The features are standardised with the
   training set's mean and deviation. C is chosen on a stratified split of the training set; then the model is fitted
   to all of it. The test set is scored and never chosen on.
2. The source experiment's own linear layer on the plain features of the first classes: mini-batches, AdamW, the
   learning rate divided by ten at 60 % and at 80 % of the epochs.

Reads   features/initial.safetensors, features/simclr.safetensors
Writes  metrics/logreg.json, metrics/linear.json     accuracy, top-5 and loss, and the gain over the initial encoder
        plots/logreg_{all,first}_{initial,simclr}.csv  loss and accuracy, a row per L-BFGS iteration
        plots/linear_{initial,simclr}.csv              the same, a row per epoch
        models/classifier.safetensors                  the probe of all classes on SimCLR features

Shapes: N images, D features, K classes.
"""

import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from sklearn.callback import ScoringMonitor
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Generator, Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import MultiStepLR

from stages.files import read_tensors, write_csv, write_json, write_tensors
from stages.params import load_params
from stages.provenance import unchanged

ENCODERS = ("initial", "simclr")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Split:
    x: Tensor  # (N, D) features
    y: Tensor  # (N,) class numbers

    def first(self, classes: int) -> "Split":
        kept = self.y < classes
        return Split(self.x[kept], self.y[kept])


@dataclass(frozen=True)
class Probe:
    scaler: StandardScaler
    model: LogisticRegression
    curve: list[dict[str, float]]
    metrics: dict[str, float]


def main() -> None:
    params = load_params()
    splits = {}
    for which in ENCODERS:
        tensors, names = read_tensors(Path(f"features/{which}.safetensors"))
        splits[which] = tuple(Split(tensors[f"{part}_features"], tensors[f"{part}_fine"]) for part in ("train", "test"))
    classes = len(names["fine_names"])

    groups = {"all": classes, "first": params.first_classes}

    def probe(count: int, which: str) -> Probe:
        train, test = (split.first(count) for split in splits[which])
        scaler = StandardScaler().fit(train.x)
        train, test = (Split(torch.from_numpy(scaler.transform(split.x)), split.y) for split in (train, test))
        C, validation = choose_C(train, **params.logreg.model_dump(), seed=params.seed)
        model, curve = fit_logreg(train, test, C, params.logreg.max_iter)
        row = curve[-1] | {"C": C, "validation_accuracy": validation}
        return Probe(scaler, model, curve, row | interval(curve[-1]["test_accuracy"], len(test.y)))

    different = list(dict.fromkeys((count, which) for count in groups.values() for which in ENCODERS))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        probes = dict(zip(different, threads.map(probe, *zip(*different, strict=True)), strict=True))

    metrics: dict[str, Any] = {}
    for group, count in groups.items():
        metrics[group] = {which: probes[count, which].metrics for which in ENCODERS}
        metrics[group]["gain"] = gain(metrics[group])
        for which in ENCODERS:
            write_csv(Path(f"plots/logreg_{group}_{which}.csv"), probes[count, which].curve)
    save_classifier(probes[classes, "simclr"], names)
    write_json(Path("metrics/logreg.json"), metrics)

    metrics = {}
    for which in ENCODERS:
        train, test = (split.first(params.first_classes) for split in splits[which])
        curve = fit_linear(train, test, **params.linear.model_dump(), seed=params.seed)
        metrics[which] = curve[-1] | interval(curve[-1]["test_accuracy"], len(test.y))
        write_csv(Path(f"plots/linear_{which}.csv"), curve)
    metrics["gain"] = gain(metrics)
    write_json(Path("metrics/linear.json"), metrics)


def choose_C(train: Split, C: list[float], validation_fraction: float, max_iter: int, seed: int) -> tuple[float, float]:
    """The C with the best accuracy on a stratified split of the training set, and that accuracy.

    The strongest regularisation wins a tie. Exits if the split cannot hold every class.
    """
    try:
        fit_x, held_x, fit_y, held_y = train_test_split(
            train.x.numpy(), train.y.numpy(), test_size=validation_fraction, stratify=train.y.numpy(), random_state=seed
        )
    except ValueError as error:
        sys.exit(
            f"params.yaml: logreg.validation_fraction = {validation_fraction}: {len(train.y)} training images cannot "
            f"be split so that both parts hold every class ({error})"
        )

    accuracies = {
        c: float(LogisticRegression(C=c, max_iter=max_iter).fit(fit_x, fit_y).score(held_x, held_y)) for c in sorted(C)
    }
    best = max(accuracies, key=accuracies.__getitem__)  # of equals the first
    return best, accuracies[best]


def fit_logreg(train: Split, test: Split, C: float, max_iter: int) -> tuple[LogisticRegression, list[dict[str, float]]]:
    """Logistic regression on the whole training set, and its scores after every iteration of L-BFGS."""

    def score(model: LogisticRegression, *_: Any) -> dict[str, float]:
        weight, bias = weights_of(model)
        return scores(lambda x: x @ weight.T + bias, train, test)

    monitor = ScoringMonitor(scoring=score)
    model = LogisticRegression(C=C, max_iter=max_iter).set_callbacks(monitor)
    model.fit(train.x.numpy(), train.y.numpy())
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
) -> list[dict[str, float]]:
    """The source experiment's linear layer; its scores after every epoch."""
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
        curve.append({"epoch": epoch} | scores(layer, train, test))
    return curve


@torch.inference_mode()
def scores(logits: Callable[[Tensor], Tensor], train: Split, test: Split) -> dict[str, float]:
    """Accuracy, top-5 accuracy and mean cross entropy (nats) on both splits. logits: (N, D) -> (N, K)."""
    result = {}
    for name, split in (("train", train), ("test", test)):
        z = logits(split.x)
        rank = (~(z < z.gather(1, split.y[:, None]))).sum(1)  # of the true class, 1 at best; a NaN or a tie is an error
        result[f"{name}_accuracy"] = (rank <= 1).float().mean().item()
        result[f"{name}_top5"] = (rank <= 5).float().mean().item()
        result[f"{name}_loss"] = F.cross_entropy(z, split.y).item()
    return result


def interval(accuracy: float, images: int) -> dict[str, float]:
    """The 95 % interval of an accuracy over so many test images (Wilson's score interval)."""
    low, high = binomtest(round(accuracy * images), images).proportion_ci(CONFIDENCE, method="wilson")
    return {"test_accuracy_low": float(low), "test_accuracy_high": float(high)}


def gain(metrics: dict[str, dict[str, float]]) -> dict[str, float]:
    """What SimCLR added to the initial encoder."""
    return {name: metrics["simclr"][name] - metrics["initial"][name] for name in ("train_accuracy", "test_accuracy")}


def save_classifier(probe: Probe, names: dict[str, list[str]]) -> None:
    """Class scores of features h are weight @ ((h - mean) / scale) + bias."""
    weight, bias = weights_of(probe.model)
    shift = {"mean": torch.from_numpy(probe.scaler.mean_), "scale": torch.from_numpy(probe.scaler.scale_)}
    tensors = shift | {"weight": weight, "bias": bias}
    write_tensors(Path("models/classifier.safetensors"), tensors, names)


if __name__ == "__main__":
    # One thread for each matrix product, and the probes side by side: faster (see `make bench`), and the result does
    # not depend on the number of cores.
    torch.set_num_threads(1)
    with threadpool_limits(1), unchanged("fit-logreg"):
        main()
