"""The command that shows all the others at work."""

import time
from pathlib import Path

from keras_convmixer.environment.console import announce
from keras_convmixer.training.recipes import RECIPES

from . import options, tables
from .command_line import starting_tensorflow
from .export import export
from .options import argument
from .training import train

QUICKSTART_IMAGES = 10


def quickstart(*, runs: argument(Path, "FOLDER") = Path("runs"), verbose: options.Verbose = False) -> None:
    """Train on real digits, export, classify: under three minutes.

    It runs what `convmixer train digits`, `convmixer export` and `convmixer predict` do, and prints each command.
    Nothing is downloaded. The three minutes are those of two CPU cores.

    For example: convmixer quickstart

    Args:
        runs: folder in which the run's folder "quickstart" is made; an earlier quickstart's is replaced.
    """
    from PIL import Image

    with starting_tensorflow(verbose):
        from keras_convmixer.export import Classifier, read_manifest
        from keras_convmixer.training import load_dataset

    started = time.monotonic()
    run = runs / "quickstart"
    bundle = run / "bundle"
    announce("1  train", f"convmixer train digits --name quickstart --overwrite --runs {runs}")
    train(RECIPES["digits"].replace(name="quickstart"), runs=runs, overwrite=True, verbose=verbose)
    announce("2  export and validate", f"convmixer export {run} --out {bundle}")
    export(run, out=bundle, verbose=verbose)

    classify = Classifier.load(bundle, "int8")
    test = load_dataset("digits", classify.preprocessing).test
    images = run / "images"
    images.mkdir(exist_ok=True)
    paths = [images / f"{test.labels[index]}_{index}.png" for index in range(QUICKSTART_IMAGES)]
    for path, image in zip(paths, test.images, strict=False):
        Image.fromarray(image).save(path)
    announce("3  predict, without TensorFlow", f"convmixer predict {bundle} {images}/*.png --format int8")
    answers = [(path, classify(path, top=1)) for path in sorted(paths)]
    tables.print_predictions(answers)
    right = sum(best[0].label == path.name[0] for path, best in answers)
    tables.print_quickstart(run, time.monotonic() - started, read_manifest(bundle), right, len(answers))
