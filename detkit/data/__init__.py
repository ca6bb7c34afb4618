"""Labelled data: readers for the formats people have, all giving one `Dataset`."""
