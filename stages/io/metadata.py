"""The version of the model files, which is part of their metadata."""

# Increase it when tensor names, metadata, inputs or outputs of the model files change.
FORMAT = "simclr-dvc 3"
