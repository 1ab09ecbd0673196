"""Stage `fit-neighbours`: votes of the nearest training images, for all classes and superclasses.

data/neighbours.csv has the nearest training images of example test images, for the report.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from stages.io.writing import write_table
from stages.probes.neighbours import Neighbours, nearest
from stages.probing.evaluation import FrozenFeatures, evaluate
from stages.probing.params import NeighboursParams as Params
from stages.probing.probe import draw_labels

SHOWN_QUERIES, SHOWN_NEIGHBOURS = 6, 6


def main(params: Params) -> None:
    features = FrozenFeatures()
    count = min(params.neighbours, len(features.arrays["train_fine"]))
    if count < params.neighbours:
        print(f"neighbours = {params.neighbours}: there are {count} training images, and all of them vote")
    evaluate(
        "neighbours",
        features,
        ["all", "superclasses"],
        lambda _: Neighbours(count),
        params.threads,
        scores_train=False,
    )
    write_table(Path("data/neighbours.csv"), neighbour_table(features, params.seed))


def neighbour_table(features: FrozenFeatures, seed: int) -> pd.DataFrame:
    """Random test images of different classes, and the nearest training images of each before and after SimCLR."""
    arrays, names = features.arrays, features.fine_names
    fine = arrays["test_fine"]
    one_of_each = draw_labels(fine, 1, [seed])
    chosen = np.random.default_rng(seed).permutation(len(one_of_each))[:SHOWN_QUERIES]
    queries = one_of_each[np.sort(chosen)]
    rows = []
    for encoder in features.before_and_after:
        found = nearest(arrays[f"train_{encoder}"], arrays[f"test_{encoder}"][queries], SHOWN_NEIGHBOURS)
        for (query, rank), neighbour in np.ndenumerate(found):
            rows.append(
                {
                    "encoder": encoder,
                    "image": queries[query],
                    "class": names[fine[queries[query]]],
                    "rank": rank + 1,
                    "neighbour": neighbour,
                    "neighbour_class": names[arrays["train_fine"][neighbour]],
                }
            )
    return pd.DataFrame(rows)
