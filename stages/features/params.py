"""The parameters of `extract-features`."""

from stages.runtime.params import ComputeParams, Weights


class ExtractParams(ComputeParams):
    weights: Weights
