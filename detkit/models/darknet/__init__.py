"""Darknet models: their cfg and weights files, and the network they describe."""
