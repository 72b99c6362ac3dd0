"""A trained torch model -> an ONNX file in fp32, fp16 or int8, with its model card."""
