"""The parameters of `extract-features`."""

from stages.runtime.params import Seed, StageParams, Threads, Weights


class ExtractParams(StageParams):
    same_bytes: bool
    seed: Seed
    threads: Threads
    weights: Weights
