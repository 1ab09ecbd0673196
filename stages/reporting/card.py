"""The model card, in the form of Hugging Face: YAML with the metrics, then text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from stages.reporting.summaries import ENCODERS, answer, results_of

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
DATASETS = {
    "sample": "the embedded sample of generated textures",
    "cifar": "CIFAR-10 (without labels) and CIFAR-100",
    "folder": "a folder of images",
}


def model_card(
    data: str,
    encoder: Mapping[str, Any],
    classes: list[str],
    first_classes: int,
    tables: Mapping[str, pd.DataFrame],
) -> str:
    """encoder: the metadata of its file; tables: scores, gains and label_efficiency."""
    scores, gains = tables["scores"], tables["gains"]
    tasks = {
        "first": f"first {first_classes} classes",
        "all": f"all {len(classes)} classes",
        "superclasses": "superclasses",
    }
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        data=data,
        dataset=DATASETS[data],
        side=encoder["image_size"],
        stem=encoder["stem"],
        classes=classes,
        features=encoder["features"],
        backbone=encoder["backbone"],
        params=encoder["training"],
        encoders={name: ENCODERS[name] for name in scores.encoder.unique()},
        results=results_of(scores, gains, tasks),
        answer=answer(scores, gains, tables["label_efficiency"]),
    )
