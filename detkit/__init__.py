"""detkit: train, run and prove object detectors."""
