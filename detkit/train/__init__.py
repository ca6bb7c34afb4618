"""Training: augmentation, the loader, the optimiser and the loop."""
