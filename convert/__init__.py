"""FTHNet in PyTorch, checkpoints, ONNX, parity, bundles."""
