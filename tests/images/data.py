"""What a source delivers, read."""

from torch import Tensor

from stages.images.dataset import Dataset


def images_of(dataset: Dataset) -> list[Tensor]:
    """Images for pretraining, for training and for testing the probes, read in this order."""
    unlabelled = [dataset.unlabelled.all()] if dataset.unlabelled else []
    train, test = dataset.train.images.all(), dataset.test.images.all()
    return [*(unlabelled or [train]), train, test]
