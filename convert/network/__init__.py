"""FTHNet in PyTorch: the network, its configuration, its checkpoints."""
