"""Labeled images: digits, folders of files and tensorflow-datasets, and their batches for training."""
