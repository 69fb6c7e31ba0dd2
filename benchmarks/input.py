"""How many images a second the input of training prepares, by itself, on all cores.

`python benchmarks/input.py --pictures FOLDER` (any folder of JPEG files; subfolders too): the ImageNet recipe's decode,
random resized crop, flip, RandAugment, erasing, mixup and cutmix at 224 pixels, from files; without decoding, from
images in memory; and the three CIFAR-10 recipes' at 32 pixels, from noise in memory.
"""

import os
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
import tyro

from keras_convmixer import Preprocessing
from keras_convmixer.environment.console import print_table
from keras_convmixer.images.decoding import SUFFIXES
from keras_convmixer.training import RECIPES, Split
from keras_convmixer.training.data.batches import InputPipeline
from keras_convmixer.training.data.lazy_images import Files, decode_and_validate
from keras_convmixer.training.devices.strategy import choose_strategy

BATCH, ROUNDS = 64, 5


def rate(split: Split, recipe, seconds: float) -> float:
    """Return images a second, the median of some rounds after a first one."""
    pipeline = InputPipeline(split, 1000, recipe.augmentation, BATCH, recipe.seed)
    batches = pipeline.batches(choose_strategy("one_device"), 0, 1_000_000)
    found = []
    for _ in range(ROUNDS + 1):
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds / ROUNDS:
            next(batches)
            count += BATCH
        found.append(count / (time.perf_counter() - started))
    return float(np.median(found[1:]))


def main(pictures: Path, seconds: float = 20.0) -> None:
    """Measure and print.

    Args:
        pictures: folder of JPEG files.
        seconds: for each row.
    """
    imagenet, preprocessing = RECIPES["imagenet_1024_20"], Preprocessing(224, 224)
    paths = sorted(path for path in pictures.rglob("*") if path.suffix.lower() in SUFFIXES)
    paths *= -(-512 // len(paths))
    files = Files(paths, np.arange(len(paths)) % 1000)
    noise = np.random.default_rng(0).integers(0, 256, (4096, 32, 32, 3)).astype(np.uint8)
    labels = np.arange(len(noise)) % 10
    streamed = decode_and_validate(files, preprocessing, in_memory=False)
    held = decode_and_validate(files, preprocessing, in_memory=True)
    sizes = streamed.images.sizes
    plain = imagenet.replace(mixup_alpha=0.0, cutmix_alpha=0.0)
    rows = [
        ("imagenet_1024_20 from files", rate(Split(streamed.images, streamed.labels), imagenet, seconds)),
        ("without mixup and cutmix", rate(Split(streamed.images, streamed.labels), plain, seconds)),
        ("from memory", rate(Split(held.images, held.labels), imagenet, seconds)),
        *((name, rate(Split(noise, labels), RECIPES[name], seconds)) for name in RECIPES if name.startswith("cifar10")),
    ]
    height, width = sizes.mean(0).round().astype(int)
    title = f"Images a second on {os.cpu_count()} cores; {len(paths)} files of {height}x{width} pixels in the mean"
    print_table(title, ("recipe", "images/s"), [(name, f"{found:,.0f}") for name, found in rows])


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    tyro.cli(main)
