"""Stage `evaluate`: a second opinion on the features, and a closer look at what the probe of all classes got wrong.

Reads   data/features.safetensors, models/predictions.safetensors, data/labelled.safetensors (images to show)
Writes  metrics/evaluate.json     accuracy of the nearest neighbours, calibration of the probes
        plots/reliability.csv     accuracy against confidence, a row per bin (SimCLR)
        plots/per_class.csv       test accuracy of every class, the worst first (SimCLR)
        plots/confusion.csv       what a test image shows and what was predicted: classes, superclasses where there
                                  are more than 20, or the 20 worst classes where there are no superclasses
        models/examples.safetensors   what the report shows: wrong images, nearest neighbours, maps; names as notes

Shapes: N images, D features, K classes.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits
from torch import Tensor

from stages.files import read_tensors, write_csv, write_json, write_tensors
from stages.params import load_params
from stages.probes import gains, interval
from stages.provenance import unchanged

READABLE = 20  # classes of a confusion matrix that can be read
BINS = 15  # of the calibration, as Guo et al. (2017)
KNN_TEMPERATURE = 0.07  # Wu et al. (2018), section 3.4
SHOWN_PAIRS = 10
SHOWN_MISTAKES = 16
SHOWN_QUERIES, SHOWN_NEIGHBOURS = 6, 6
MAPPED = 1000  # test images: enough to see the groups, and t-SNE takes seconds for them
MAPS = ("initial", "simclr")


def main() -> None:
    params = load_params()
    tensors, notes = read_tensors(Path("data/features.safetensors"))
    logits = read_tensors(Path("models/predictions.safetensors"))[0]
    images = read_tensors(Path("data/labelled.safetensors"))[0]
    fine, coarse = tensors["test_fine"], tensors["test_coarse"]
    train_labels = torch.stack([tensors["train_fine"], tensors["train_coarse"]], dim=1)

    metrics: dict[str, Any] = {"knn_fine": {}, "knn_coarse": {}, "calibration": {}}
    right: dict[str, dict[str, Tensor]] = {"knn_fine": {}, "knn_coarse": {}}
    nearest, bins = {}, {}
    shown = some_of_each_class(fine, SHOWN_QUERIES, params.seed)
    for encoder in notes["encoders"]:
        knn = fit_knn(tensors[f"train_{encoder}"], train_labels, params.neighbours)
        predicted = torch.from_numpy(knn.predict(tensors[f"test_{encoder}"].numpy()))
        for name, truth, answer in zip(("knn_fine", "knn_coarse"), (fine, coarse), predicted.unbind(1), strict=True):
            right[name][encoder] = answer == truth
            accuracy = right[name][encoder].float().mean().item()
            metrics[name][encoder] = {"test_accuracy": accuracy, **interval(accuracy, len(truth))}
        nearest[encoder] = knn.kneighbors(tensors[f"test_{encoder}"][shown].numpy(), return_distance=False)
        confidence, answer = logits[encoder].softmax(1).max(1)
        bins[encoder] = reliability(confidence, answer == fine)
        metrics["calibration"][encoder] = {"expected_error": expected_calibration_error(bins[encoder])}
    for name, of_encoders in right.items():
        metrics[name]["gain"] = gains(of_encoders)
    write_json(Path("metrics/evaluate.json"), metrics)

    # From here on, the probe of all classes on SimCLR's features.
    write_csv(Path("plots/reliability.csv"), bins["simclr"])
    confidence, predicted = logits["simclr"].softmax(1).max(1)
    accuracies = per_class(fine, predicted, notes["fine_names"])
    write_csv(Path("plots/per_class.csv"), accuracies)
    worst = [row["class"] for row in accuracies]
    names, of_fine = readable_classes(fine, coarse, notes["fine_names"], notes["coarse_names"], worst)
    write_csv(
        Path("plots/confusion.csv"),
        [{"actual": names[of_fine[a]], "predicted": names[of_fine[b]]} for a, b in zip(fine, predicted, strict=True)],
    )

    wrong = confidently_wrong(confidence, predicted, fine, SHOWN_MISTAKES)
    mapped = torch.from_numpy(np.random.default_rng(params.seed).permutation(len(fine))[:MAPPED])
    # One thread each, so that two runs give the same map; OpenBLAS' limit is the process's.
    with threadpool_limits(1), ThreadPoolExecutor(len(MAPS)) as threads:
        maps = list(threads.map(lambda encoder: project(tensors[f"test_{encoder}"][mapped], params.seed), MAPS))
    examples = {
        "wrong_images": images["test_images"][wrong],
        "wrong_fine": fine[wrong],
        "wrong_predicted": predicted[wrong],
        "wrong_confidence": confidence[wrong],
        "query_images": images["test_images"][shown],
        "query_fine": fine[shown],
        "map_class": torch.tensor(of_fine)[fine[mapped]],
    }
    for encoder, points in zip(MAPS, maps, strict=True):
        found = torch.from_numpy(nearest[encoder])[:, :SHOWN_NEIGHBOURS]
        examples |= {
            f"map_{encoder}": points,
            f"near_{encoder}_images": images["train_images"][found],
            f"near_{encoder}_fine": tensors["train_fine"][found],
        }
    write_tensors(
        Path("models/examples.safetensors"),
        examples,
        {
            "fine_names": notes["fine_names"],
            "coarse_names": notes["coarse_names"],
            "class_names": names,
            "confused": confused_pairs(fine, predicted, notes["fine_names"])[:SHOWN_PAIRS],
        },
    )


def fit_knn(x: Tensor, y: Tensor, neighbours: int) -> KNeighborsClassifier:
    """Nearest neighbours by cosine, each with a vote of exp(cosine / 0.07). x (N, D), y (N, targets)."""
    knn = KNeighborsClassifier(
        min(neighbours, len(x)), metric="cosine", weights=lambda distance: np.exp((1 - distance) / KNN_TEMPERATURE)
    )
    return knn.fit(x.numpy(), y.numpy())


def reliability(confidence: Tensor, right: Tensor) -> list[dict[str, float]]:
    """A row per non-empty bin of confidence (equal widths): mean confidence, accuracy, number of images. (N,) each."""
    bins = (confidence * BINS).ceil().clamp(1, BINS)
    return [
        {
            "confidence": confidence[bins == number].mean().item(),
            "accuracy": right[bins == number].float().mean().item(),
            "images": int((bins == number).sum()),
        }
        for number in bins.unique().tolist()
    ]


def expected_calibration_error(bins: list[dict[str, float]]) -> float:
    """Mean distance between confidence and accuracy, weighted by images: Guo et al. (2017), equation 3."""
    total = sum(each["images"] for each in bins)
    return sum(each["images"] / total * abs(each["accuracy"] - each["confidence"]) for each in bins)


def per_class(truth: Tensor, predicted: Tensor, names: list[str]) -> list[dict[str, Any]]:
    """Accuracy of every class that has test images, the lowest first, which has rank 1."""
    rows = [
        {"class": name, "accuracy": (predicted[shown] == label).float().mean().item(), "images": int(shown.sum())}
        for label, name in enumerate(names)
        if (shown := truth == label).any()
    ]
    return [{"rank": rank, **row} for rank, row in enumerate(sorted(rows, key=lambda row: row["accuracy"]), 1)]


def confused_pairs(truth: Tensor, predicted: Tensor, names: list[str]) -> list[dict[str, Any]]:
    """Actual and wrongly predicted class, the most frequent pair first; share: of the images of the actual class."""
    counts = torch.zeros(len(names), len(names), dtype=torch.int64)
    counts.index_put_((truth, predicted), torch.tensor(1), accumulate=True)
    shares = counts / counts.sum(1, keepdim=True)
    counts.fill_diagonal_(0)
    return [
        {"actual": names[a], "predicted": names[b], "images": int(counts[a, b]), "share": float(shares[a, b])}
        for a, b in sorted(counts.nonzero().tolist(), key=lambda pair: -int(counts[tuple(pair)]))
    ]


def confidently_wrong(confidence: Tensor, predicted: Tensor, truth: Tensor, count: int) -> Tensor:
    """Indices of the wrong images with the highest confidence, in its order."""
    wrong = (predicted != truth).nonzero()[:, 0]
    return wrong[confidence[wrong].argsort(descending=True, stable=True)[:count]]


def readable_classes(
    fine: Tensor, coarse: Tensor, fine_names: list[str], coarse_names: list[str], worst: list[str]
) -> tuple[list[str], list[int]]:
    """At most 20 names to show, and for each class the number of its own.

    They are those of the classes; of the superclasses where there are more classes than 20; or, where there are no
    superclasses (or too many of them), of the first of the `worst` classes, with one name for all others.
    """
    if len(fine_names) <= READABLE:
        return fine_names, list(range(len(fine_names)))
    if coarse_names != fine_names and len(coarse_names) <= READABLE:
        superclass = dict(zip(fine.tolist(), coarse.tolist(), strict=True))
        return coarse_names, [superclass.get(label, 0) for label in range(len(fine_names))]
    shown = worst[: READABLE - 1]
    return [*shown, "all others"], [shown.index(name) if name in shown else len(shown) for name in fine_names]


def some_of_each_class(y: Tensor, count: int, seed: int) -> Tensor:
    """Indices of one random image of each of `count` random classes."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))
    firsts = [order[y[order] == label][0] for label in y[order].unique()]
    chosen = np.random.default_rng(seed).permutation(len(firsts))[:count]
    return torch.stack([firsts[number] for number in sorted(chosen)])


def project(x: Tensor, seed: int) -> Tensor:
    """t-SNE of cosine distances: (N, D) -> (N, 2). Equal rows, which it can't place, all come to the origin."""
    if bool((x == x[0]).all()):
        return torch.zeros(len(x), 2)
    with threadpool_limits(1):  # OpenMP's limit is a thread's
        tsne = TSNE(perplexity=min(30, (len(x) - 1) / 3), metric="cosine", init="pca", random_state=seed)
        return torch.from_numpy(tsne.fit_transform(x.numpy()))


if __name__ == "__main__":
    with unchanged("evaluate"):
        main()
