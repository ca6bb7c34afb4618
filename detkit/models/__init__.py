"""Networks (PyTorch). Each task file holds its network, its loss and its decoding side by side."""
