"""A model leaves the project: for the Hugging Face hub, or as ONNX."""
