"""FTHNet as an ONNX graph."""
