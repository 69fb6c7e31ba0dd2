"""The `convmixer` command: the one place that knows the library, training and export.

What a command needs is imported inside it, so that `predict` answers without TensorFlow.
"""

import json
import os
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.text import Text

from keras_convmixer import __version__
from keras_convmixer.atomic import require_folder_name
from keras_convmixer.console import print_facts, print_table, progress_bar, silence_native_logs, waiting
from keras_convmixer.training.recipes import DESCRIPTIONS, RECIPES

CALIBRATION_IMAGES = 500
VALIDATION_IMAGES = 2000
QUICKSTART_PICTURES = 10
# What the package raises with a sentence for the user; anything else is a surprise and says where to look.
EXPLAINED = (ValueError, ImportError, RuntimeError, FileNotFoundError, FileExistsError, FloatingPointError)


def _argument(kind, metavar, default=None):
    hint = None if default is None else f"(default: {default})"
    return Annotated[kind, tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)]


RecipeArgument = Annotated[tyro.extras.subcommand_type_from_defaults(RECIPES, DESCRIPTIONS), tyro.conf.arg(name="")]
ModelArgument = tyro.conf.Positional[_argument(Path, "MODEL")]
DataOption = _argument(str | None, "digits|FOLDER", "the run's own")
app = tyro.extras.SubcommandApp()


@app.command
def quickstart(*, runs: _argument(Path, "FOLDER") = Path("runs"), verbose: bool = False) -> None:
    """Train on real digits, export, validate and predict: under three minutes on two cores.

    For example: convmixer quickstart

    Args:
        runs: where the run's folder is made; what an earlier quickstart left in it is replaced.
        verbose: show tracebacks and TensorFlow's own log.
    """
    import dataclasses
    import time

    from PIL import Image

    with _starting_tensorflow(verbose):
        from keras_convmixer.export import Classifier, read_manifest
        from keras_convmixer.training import load_dataset

    started = time.monotonic()
    run = runs / "quickstart"
    bundle = run / "bundle"
    _announce("1  train", f"convmixer train digits --name quickstart --overwrite --runs {runs}")
    train(dataclasses.replace(RECIPES["digits"], name="quickstart"), runs=runs, overwrite=True, verbose=verbose)
    _announce("2  export and validate", f"convmixer export {run} --out {bundle}")
    export(run, out=bundle, verbose=verbose)

    classify = Classifier.load(bundle, "int8")
    test = load_dataset("digits", classify.preprocessing).test
    pictures = run / "pictures"
    pictures.mkdir(exist_ok=True)
    paths = [pictures / f"{test.labels[index]}_{index}.png" for index in range(QUICKSTART_PICTURES)]
    for path, image in zip(paths, test.images, strict=False):
        Image.fromarray(image).save(path)
    _announce("3  predict, without TensorFlow", f"convmixer predict {bundle} {pictures}/*.png --format int8")
    answers = [(path, classify(path, top=1)) for path in sorted(paths)]
    _print_predictions(answers)
    right = sum(best[0].label == path.name[0] for path, best in answers)
    manifest = read_manifest(bundle)
    print_facts(
        f"Done in {time.monotonic() - started:.0f} s",
        {
            "test accuracy": f"{manifest['reference_accuracy']:.2%}",
            **{
                artifact["path"]: f"{artifact['size'] / 1000:,.1f} kB, "
                f"{artifact['validation']['top1_agreement']:.2%} agreement with Keras"
                for artifact in manifest["artifacts"]
            },
            "predict": f"{right} of {len(answers)} held-out digits right",
            "pictures": f"{run}/predictions.png and others",
        },
    )


@app.command
def train(
    recipe: RecipeArgument,
    *,
    runs: _argument(Path, "FOLDER") = Path("runs"),
    overwrite: bool = False,
    verbose: bool = False,
) -> None:
    """Train a model by a recipe and write its run folder: model, metrics, pictures.

    For example: convmixer train digits --epochs 10 --name short

    Args:
        recipe: what to train; its fields are options.
        runs: where the run's folder NAME is made.
        overwrite: train again although that folder holds a trained model.
        verbose: show tracebacks and TensorFlow's own log.
    """
    with _starting_tensorflow(verbose):
        from keras_convmixer.training import train

    run = runs / recipe.name
    summary = train(recipe, run, overwrite=overwrite)
    print_facts(
        f"Trained {run}",
        {
            "test accuracy": f"{summary['test_accuracy']:.2%} of {summary['test_images']:,} images",
            "parameters": f"{summary['parameters']:,}",
            "training": f"{summary['seconds']:.0f} s, {summary['images_per_second']:,.0f} images/s",
            "model": run / "model.keras",
            "pictures": ", ".join(f"{name}.png" for name in ("curves", "confusion", "predictions")),
        },
    )


@app.command
def evaluate(
    model: ModelArgument,
    *,
    data: DataOption = None,
    out: _argument(Path | None, "FOLDER", "no pictures") = None,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Measure a trained model's accuracy on labelled pictures.

    For example: convmixer evaluate runs/digits --out evaluation

    Args:
        model: run folder, or .keras file that takes pixels 0..255.
        data: digits (its test images), or a folder with a subfolder of pictures for each label: all of them, but
            of the folder that the model was trained on its test images.
        out: folder to write a confusion matrix and a sheet of predictions to.
        json: print one JSON object instead of tables.
        verbose: show tracebacks and TensorFlow's own log.
    """
    with _starting_tensorflow(verbose):
        from keras_convmixer.training import evaluate, load_dataset, load_images, load_run

    if out:
        require_folder_name(out)
    run = load_run(model)
    data = data or _own_data(run, model)
    own = run.recipe is not None and Path(data).resolve() == Path(run.recipe.dataset).resolve()
    with progress_bar() as progress:
        if data != "digits" and not own:
            class_names, split = load_images(data, run.preprocessing, run.class_names, progress)
            images = f"all {len(split):,} images of {data}"
        else:
            dataset = load_dataset(data, run.preprocessing, run.class_names, progress)
            class_names, split = dataset.class_names, dataset.test
            images = f"the {len(split):,} test images of {data}"
    result = evaluate(run.model, split)
    if out:
        from keras_convmixer.training import figures

        out.mkdir(parents=True, exist_ok=True)
        figures.draw_confusion(result, class_names, out / "confusion.png")
        figures.draw_predictions(split.images, result, class_names, out / "predictions.png")
    facts = {"images": len(split), "accuracy": result.accuracy, "loss": result.loss}
    classes = result.by_class(class_names)
    if json:
        _print_json({**facts, "classes": classes})
        return
    print_facts(
        f"Evaluated {model} on {images}",
        {
            "accuracy": f"{result.accuracy:.2%}",
            "cross-entropy": f"{result.loss:.4f} nats",
            **({"pictures": out} if out else {}),
        },
    )
    rows = [(c["label"], f"{c['precision']:.1%}", f"{c['recall']:.1%}", f"{c['images']:,}") for c in classes]
    print_table(None, ("label", "precision", "recall", "images"), rows)


@app.command
def export(
    model: ModelArgument,
    *,
    out: _argument(Path, "BUNDLE"),
    data: DataOption = None,
    formats: tuple[Literal["float32", "int8"], ...] = ("float32", "int8"),
    verbose: bool = False,
) -> None:
    """Export a trained model as a bundle: SavedModel and TFLite files, each checked against the model.

    For example: convmixer export runs/digits --out digits_bundle

    Args:
        model: run folder, or .keras file that takes pixels 0..255.
        out: the bundle's folder; a bundle that is there is replaced once the new one is valid.
        data: digits, or a folder with a subfolder of pictures for each label, to calibrate and validate with.
        formats: which .tflite files beside the SavedModel.
        verbose: show tracebacks and TensorFlow's own log.
    """
    with _starting_tensorflow(verbose):
        from keras_convmixer.export import export_bundle
        from keras_convmixer.training import load_dataset, load_run

    run = load_run(model)
    preprocessing = run.preprocessing
    with progress_bar() as progress:
        dataset = load_dataset(data or _own_data(run, model), preprocessing, run.class_names, progress)
    manifest = export_bundle(
        run.model,
        out,
        class_names=dataset.class_names,
        calibration_images=dataset.train.images[:CALIBRATION_IMAGES],
        validation_images=dataset.test.images[:VALIDATION_IMAGES],
        validation_labels=dataset.test.labels[:VALIDATION_IMAGES],
        formats=formats,
        crop_fraction=preprocessing.crop_fraction,
    )
    rows = [
        (
            artifact["path"],
            f"{artifact['size'] / 1000:,.1f}",
            artifact["input"]["dtype"],
            f"{artifact['validation']['top1_agreement']:.2%}",
            f"{artifact['validation']['max_difference']:.1e}",
            f"{artifact['validation']['accuracy']:.2%}",
        )
        for artifact in manifest["artifacts"]
    ]
    print_table(
        f"Exported {out}: each file run on {manifest['artifacts'][0]['validation']['images']:,} held-out images "
        f"(Keras accuracy {manifest['reference_accuracy']:.2%})",
        ("file", "kB", "input", "agreement", "difference", "accuracy"),
        rows,
    )


@app.command
def predict(
    bundle: tyro.conf.Positional[_argument(Path, "BUNDLE")],
    images: tyro.conf.Positional[_argument(tuple[Path, ...], "IMAGE...", "one or more")],
    *,
    format: _argument(str | None, "float32|int8", "float32") = None,
    top: int = 5,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Classify pictures with an exported model; TensorFlow is not needed.

    For example: convmixer predict digits_bundle digit.png another.jpg

    Args:
        bundle: bundle of `convmixer export`, or a .tflite file.
        images: pictures in any format that Pillow reads; greyscale, transparent and rotated ones too.
        format: which of the bundle's .tflite files.
        top: how many labels to print for each picture.
        json: print one JSON object a line, one for each picture.
        verbose: show tracebacks and TensorFlow's own log.
    """
    from keras_convmixer.export import Classifier

    if not images:
        raise _UsageError("name at least one picture: convmixer predict BUNDLE IMAGE...")
    if top < 1:
        raise _UsageError(f"--top {top}: give 1 or more")
    if not verbose:
        silence_native_logs()
    classify = Classifier.load(bundle, format)
    answers, failures = [], []
    with progress_bar(len(images) > 1 and not json) as progress:
        task = progress.add_task("classifying", total=len(images), detail="")
        for path in progress.track(images, task_id=task):
            try:
                answers.append((path, classify(path, top)))
                line = {"file": str(path), "predictions": [vars(prediction) for prediction in answers[-1][1]]}
            except (OSError, ValueError) as error:
                failures.append(_sentence(error))
                line = {"file": str(path), "error": failures[-1]}
            if json:
                _print_json(line, indent=None)
    if answers and not json:
        _print_predictions(answers)
    for failure in failures:
        print(f"convmixer: {failure}", file=sys.stderr)
    if failures:
        sys.exit(1)


class _UsageError(Exception):
    """Arguments that tyro let pass and that are wrong."""


@contextmanager
def _starting_tensorflow(verbose):
    os.environ["KERAS_BACKEND"] = "tensorflow"  # also where the user's other work runs on another one
    if not verbose:
        silence_native_logs()
    with waiting("starting TensorFlow"):
        yield


def _own_data(run, path):
    what_to_do = "name pictures with --data, digits or a folder with one subfolder for each label"
    if run.recipe is None:
        raise _UsageError(f"{path} has no recipe.json beside it: {what_to_do}")
    if run.recipe.dataset != "digits" and not Path(run.recipe.dataset).is_dir():
        raise FileNotFoundError(f"{path} was trained on {run.recipe.dataset}, which is not there: {what_to_do}")
    return run.recipe.dataset


def _announce(step, command):
    line = Text.assemble("\n", (step, "bold"), "   ", (f"$ {command}", "dim"))
    Console(stderr=True).print(line, soft_wrap=True)


def _print_predictions(answers):
    columns = ("picture", "label", "probability")
    rows = []
    for path, best in answers:
        for rank, prediction in enumerate(best):
            rows.append(("" if rank else str(path), prediction.label, f"{prediction.probability:.1%}"))
    print_table(None, columns, rows)


def _print_json(content, indent=2):
    print(json.dumps(content, indent=indent, ensure_ascii=False))


def main() -> None:
    """Run the command line: exit code 0 done, 1 the job failed, 2 wrong arguments."""
    if sys.argv[1:] == ["--version"]:
        print(f"convmixer {__version__}")
        return
    verbose = "--verbose" in sys.argv
    try:
        app.cli(
            prog="convmixer",
            description="ConvMixer in Keras 3: train it, export it, classify pictures with it.",
            config=(
                tyro.conf.OmitArgPrefixes,
                tyro.conf.OmitSubcommandPrefixes,
                tyro.conf.CascadeSubcommandArgs,
                tyro.conf.FlagCreatePairsOff,
            ),
        )
    except BrokenPipeError:  # whoever read the output wanted no more, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if verbose:
            traceback.print_exc()
        print(f"convmixer: {_sentence(error)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, _UsageError) else 1)
    except KeyboardInterrupt:
        print("convmixer: interrupted", file=sys.stderr)
        sys.exit(130)


def _sentence(error):
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed: pip install 'keras-convmixer[train,export]'"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}"
    if type(error) in EXPLAINED or type(error).__module__.startswith("keras_convmixer"):
        return str(error)
    return f"{type(error).__name__}: {error} (--verbose shows where)"


if __name__ == "__main__":
    main()
