"""Stage `fit-linear`: the linear layer of the reference experiment on the features of every encoder, first classes."""

from stages.probes.linear import LinearLayer
from stages.probing.evaluation import FrozenFeatures, evaluate
from stages.probing.params import LinearParams as Params


def main(params: Params) -> None:
    evaluate(
        "linear",
        FrozenFeatures(params.first_classes),
        ["first"],
        lambda curve: LinearLayer(**params.linear.model_dump(), seed=params.seed, curve=curve),
        params.threads,
    )
