"""What a model file is, in the metadata that safetensors' and onnx's own tools show."""

# Another number where the names, the metadata, or what goes in and comes out change.
FORMAT = "simclr-dvc 3"
