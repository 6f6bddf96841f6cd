"""ONNX segments to TensorRT engines."""
