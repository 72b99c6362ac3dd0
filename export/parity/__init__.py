"""Does an ONNX file do what its torch model does? Measurements, budgets, the certificate."""
