"""onnxruntime sessions: devices and providers, memory, batches, the metadata of a model file."""
