"""What a model file says of itself, as notes in its metadata, which safetensors' and onnx's own tools show."""

from typing import Any

# Another number where the names, the notes, or what goes in and comes out change.
FORMAT = "simclr-dvc 2"


def contract(architecture: str, made_of: dict[str, str], **facts: Any) -> dict[str, Any]:
    """made_of: the parameters, and the MD5 of the code and the data, of the stage that makes the file (`inputs.py`)."""
    return {"format": FORMAT, "architecture": architecture, **facts, "made_of": made_of}
