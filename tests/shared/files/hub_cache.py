"""A cache of the Hugging Face hub, with random weights of a published variant in it."""

import hashlib

import numpy as np
from safetensors.numpy import save_file


def lay_out(cache, repository, tensors):
    """What huggingface_hub keeps of a repository: blobs by checksum, snapshots of links, and where `main` is."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = cache / f"models--{repository.replace('/', '--')}"
    for part in ("blobs", f"snapshots/{commit}", "refs"):
        (folder / part).mkdir(parents=True)
    save_file(tensors, folder / "partial")
    blob = hashlib.sha256((folder / "partial").read_bytes()).hexdigest()
    (folder / "partial").rename(folder / "blobs" / blob)
    (folder / "snapshots" / commit / "model.safetensors").symlink_to(f"../../blobs/{blob}")
    (folder / "refs" / "main").write_text(commit)
    return folder / "blobs" / blob


def random_tensors(variant):
    """Weights of a published variant's sizes by timm's names, made without the code under test."""
    random = np.random.RandomState(0)
    dim, kernel_size, patch_size = variant.dim, variant.kernel_size, variant.patch_size
    shapes = {"stem.0": (dim, 3, patch_size, patch_size), "stem.2": (dim,), "head": (variant.classes, dim)}
    for block in range(variant.depth):
        shapes[f"blocks.{block}.0.fn.0"] = (dim, 1, kernel_size, kernel_size)
        shapes[f"blocks.{block}.0.fn.2"] = shapes[f"blocks.{block}.3"] = (dim,)
        shapes[f"blocks.{block}.1"] = (dim, dim, 1, 1)
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = random.uniform(-1, 1, shape).astype("float32")
        tensors[f"{name}.bias"] = random.uniform(-1, 1, shape[0]).astype("float32")
        if len(shape) == 1:
            tensors[f"{name}.running_mean"] = random.uniform(-1, 1, shape).astype("float32")
            tensors[f"{name}.running_var"] = random.uniform(0.5, 1, shape).astype("float32")
            tensors[f"{name}.num_batches_tracked"] = np.array(7)
    return tensors


PATCH = """
import dataclasses, json, os, sys
import keras_convmixer as kc
for name, changes in json.loads(os.environ.get("VARIANTS", "{}")).items():
    kc.VARIANTS[name] = dataclasses.replace(kc.VARIANTS[name], **changes)
"""
