"""The report in HTML, and the model card in Hugging Face's format: YAML with the metrics, then text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stages.reporting.summaries import ENCODERS, conclusion, points, results_of

DATASETS = {
    "sample": "the embedded sample of generated textures",
    "cifar": "CIFAR-10 (without labels) and CIFAR-100",
    "folder": "a folder of images",
}


def render(template: str, **content: Any) -> str:
    """A template of this folder filled with `content`, which is escaped in HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=".html" in template,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": lambda fraction: f"{100 * fraction:.1f} %", "points": points}
    return environment.get_template(template).render(content)


def model_card(
    data: str, encoder: Mapping[str, Any], classes: list[str], first_classes: int, tables: Mapping[str, pd.DataFrame]
) -> str:
    """encoder: the metadata of its file; tables: scores, gains and label_efficiency."""
    scores, gains = tables["scores"], tables["gains"]
    tasks = {
        "first": f"first {first_classes} classes",
        "all": f"all {len(classes)} classes",
        "superclasses": "superclasses",
    }
    return render(
        "model_card.md.jinja",
        data=data,
        dataset=DATASETS[data],
        classes=classes,
        encoder=encoder,
        encoders={name: ENCODERS[name] for name in scores.encoder.unique()},
        results=results_of(scores, gains, tasks),
        conclusion=conclusion(scores, gains, tables["label_efficiency"]),
    )
