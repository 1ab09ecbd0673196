"""The report in HTML, and the model card in Hugging Face's format: YAML with the metrics, then text."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stages.reporting.summaries import points


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
