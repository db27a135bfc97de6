"""TensorRT engines: built, checked, and compared with ONNX Runtime."""
