"""FP16 and INT8: made and verified."""
