"""The `convmixer` command: the one place that knows the library, training and export.

What a command needs is imported inside it, so that `predict` answers without TensorFlow.
"""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from keras_convmixer import tables
from keras_convmixer.atomic import require_folder_name
from keras_convmixer.command_line import UsageError, argument, run_app, sentence, starting_tensorflow
from keras_convmixer.console import announce, print_facts, print_json, progress_bar, silence_native_logs, waiting
from keras_convmixer.training.recipes import DESCRIPTIONS, RECIPES

CALIBRATION_IMAGES = 500
VALIDATION_IMAGES = 2000
QUICKSTART_PICTURES = 10

RecipeArgument = Annotated[tyro.extras.subcommand_type_from_defaults(RECIPES, DESCRIPTIONS), tyro.conf.arg(name="")]
ModelArgument = tyro.conf.Positional[argument(Path, "MODEL")]
DataOption = argument(str | None, "digits|FOLDER|NAME", "the run's own")
DataFolderOption = argument(str, "FOLDER", "the run's own, else tensorflow-datasets'")
CropOption = argument(float | None, "FLOAT", "the run's own, else 1")
app = tyro.extras.SubcommandApp()


@app.command
def quickstart(*, runs: argument(Path, "FOLDER") = Path("runs"), verbose: bool = False) -> None:
    """Train on real digits, export, validate and predict: under three minutes on two cores.

    For example: convmixer quickstart

    Args:
        runs: where the run's folder is made; what an earlier quickstart left in it is replaced.
        verbose: show tracebacks and TensorFlow's own log.
    """
    import dataclasses
    import time

    from PIL import Image

    with starting_tensorflow(verbose):
        from keras_convmixer.export import Classifier, read_manifest
        from keras_convmixer.training import load_dataset

    started = time.monotonic()
    run = runs / "quickstart"
    bundle = run / "bundle"
    announce("1  train", f"convmixer train digits --name quickstart --overwrite --runs {runs}")
    train(dataclasses.replace(RECIPES["digits"], name="quickstart"), runs=runs, overwrite=True, verbose=verbose)
    announce("2  export and validate", f"convmixer export {run} --out {bundle}")
    export(run, out=bundle, verbose=verbose)

    classify = Classifier.load(bundle, "int8")
    test = load_dataset("digits", classify.preprocessing).test
    pictures = run / "pictures"
    pictures.mkdir(exist_ok=True)
    paths = [pictures / f"{test.labels[index]}_{index}.png" for index in range(QUICKSTART_PICTURES)]
    for path, image in zip(paths, test.images, strict=False):
        Image.fromarray(image).save(path)
    announce("3  predict, without TensorFlow", f"convmixer predict {bundle} {pictures}/*.png --format int8")
    answers = [(path, classify(path, top=1)) for path in sorted(paths)]
    tables.print_predictions(answers)
    right = sum(best[0].label == path.name[0] for path, best in answers)
    tables.print_quickstart(run, time.monotonic() - started, read_manifest(bundle), right, len(answers))


@app.command
def train(
    recipe: RecipeArgument,
    *,
    runs: argument(Path, "FOLDER") = Path("runs"),
    overwrite: bool = False,
    strategy: Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"] = "auto",
    checkpoint_minutes: float = 10.0,
    steps_per_call: argument(int | None, "INT", "20 on GPUs and TPUs, 1 on CPUs") = None,
    verbose: bool = False,
) -> None:
    """Train a model by a recipe and write its run folder: model, metrics, pictures. Stopped, it goes on where it was.

    For example: convmixer train digits --epochs 10 --name short

    Args:
        recipe: what to train; its fields are options.
        runs: where the run's folder NAME is made.
        overwrite: train again although that folder holds a trained model.
        strategy: devices to train on; auto takes all GPUs of this machine, or of the cluster that TF_CONFIG or Slurm
            describe.
        checkpoint_minutes: time between checkpoints; each epoch's end is one too.
        steps_per_call: steps that TensorFlow runs in one go.
        verbose: show tracebacks and TensorFlow's own log.
    """
    with starting_tensorflow(verbose):
        from keras_convmixer.training import train

    run = runs / recipe.name
    summary = train(recipe, run, overwrite, strategy, checkpoint_minutes, steps_per_call)
    if summary:  # the chief's
        tables.print_training(run, summary)


@app.command
def launch(
    arguments: tyro.conf.Positional[argument(str, "RECIPE ...")],
    *,
    workers: int = 2,
    restarts: int = 10,
    startup_seconds: float = 1800.0,
    stall_seconds: float = 600.0,
) -> None:
    """Train with several workers on this machine, without GPUs; when one dies or stalls, all begin again where it was.

    For example: convmixer launch --workers 2 digits --epochs 10

    Args:
        arguments: what `convmixer train` takes; after the options of launch.
        workers: processes that train together, each on its share of every batch.
        restarts: how many times all workers are started again.
        startup_seconds: within which every worker must have loaded its data and done a step.
        stall_seconds: a worker that does no step for so long, evaluation included, counts as stalled.
    """
    from keras_convmixer.training.launch import Launch

    if workers < 1:
        raise UsageError(f"--workers {workers}: give 1 or more")
    sys.exit(Launch(["train", *shlex.split(arguments)], workers, restarts, startup_seconds, stall_seconds).run())


@app.command
def plan(
    recipe: RecipeArgument,
    *,
    gpus: int = 1,
    hosts: int = 1,
    device: argument(str, "NAME|here") = "here",
    images: argument(int | None, "INT", "the data set's own") = None,
    classes: argument(int | None, "INT", "the data set's own") = None,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Estimate what a recipe costs before anything is rented: memory, hours, energy.

    For example: convmixer plan imagenet_1536_20 --gpus 8 --hosts 4 --device h200

    Args:
        recipe: what to train; its fields are options.
        gpus: devices of each host.
        hosts: hosts that train together.
        device: t4, v100, rtx8000, l4, a100, h100, h200, by their data sheets; or this machine, measured for seconds.
        images: training images, where the data set is not known here.
        classes: their labels, likewise.
        json: print one JSON object instead of a table.
        verbose: show tracebacks and TensorFlow's own log.
    """
    from keras_convmixer.training.plan import DEVICES, SIZES, plan

    if device != "here" and device not in DEVICES:
        raise UsageError(f"--device {device}: there are here, {', '.join(DEVICES)}")
    known = SIZES.get(recipe.dataset)
    if known is None and (images is None or classes is None):
        raise UsageError(f"the size of {recipe.dataset} is not known here: give --images and --classes")
    if gpus < 1 or hosts < 1:
        raise UsageError(f"--gpus {gpus} --hosts {hosts}: give 1 or more of each")
    with starting_tensorflow(verbose):
        found = plan(recipe, images or known[0], classes or known[1], gpus, hosts, DEVICES.get(device))
    if json:
        print_json(found.facts())
    else:
        tables.print_plan(recipe, device, gpus, hosts, found)


@app.command
def recipes(*, json: bool = False) -> None:
    """List the recipes: what they train, on what, for how long.

    For example: convmixer recipes

    Args:
        json: print one JSON object with every field instead of a table.
    """
    if json:
        print_json({name: vars(recipe) for name, recipe in RECIPES.items()})
    else:
        tables.print_recipes(RECIPES, DESCRIPTIONS)


@app.command
def evaluate(
    model: ModelArgument,
    *,
    data: DataOption = None,
    data_dir: DataFolderOption = "",
    crop_fraction: CropOption = None,
    out: argument(Path | None, "FOLDER", "no pictures") = None,
    json: bool = False,
    verbose: bool = False,
) -> None:
    """Measure a trained model's accuracy on labelled pictures.

    For example: convmixer evaluate runs/digits --out evaluation

    Args:
        model: run folder, or .keras file that takes pixels 0..255.
        data: digits or a name of tensorflow-datasets (their test images), or a folder with a subfolder of pictures for
            each label: all of them, but of the folder that the model was trained on its test images.
        data_dir: where tensorflow-datasets has its data.
        crop_fraction: share of a picture's shorter side that the model sees; the paper's ImageNet models: 0.96.
        out: folder to write a confusion matrix and a sheet of predictions to.
        json: print one JSON object instead of tables.
        verbose: show tracebacks and TensorFlow's own log.
    """
    with starting_tensorflow(verbose):
        from keras_convmixer.training import evaluate, load_dataset, load_images, load_run

    if out:
        require_folder_name(out)
    run = load_run(model, crop_fraction)
    data = data or _own_data(run, model)
    class_names = run.class_names or _imagenet_ids(run.model, data)
    own = run.recipe is not None and Path(data).resolve() == Path(run.recipe.dataset).resolve()
    with progress_bar() as progress:
        if Path(data).is_dir() and data != "digits" and not own:
            class_names, split = load_images(data, run.preprocessing, class_names, progress)
            images = f"all {len(split):,} images of {data}"
        else:
            dataset = load_dataset(data, run.preprocessing, class_names, progress, _data_dir(run, data_dir))
            class_names, split = dataset.class_names, dataset.test
            images = f"the {len(split):,} test images of {data}"
    if len(class_names) != run.model.output_shape[-1]:
        raise ValueError(
            f"{data} has {len(class_names)} labels, and the model has {run.model.output_shape[-1]} classes: write the "
            f"label of each class, one a line, to {model.with_name('labels.txt')}"
        )
    result = evaluate(run.model, split)
    if out:
        from keras_convmixer.training import figures

        out.mkdir(parents=True, exist_ok=True)
        figures.draw_confusion(result, class_names, out / "confusion.png")
        figures.draw_predictions(split.images, result, class_names, out / "predictions.png")
    classes = result.by_class(class_names)
    if json:
        print_json({"images": len(split), "accuracy": result.accuracy, "loss": result.loss, "classes": classes})
    else:
        tables.print_evaluation(f"Evaluated {model} on {images}", result.accuracy, result.loss, classes, out)


@app.command
def export(
    model: ModelArgument,
    *,
    out: argument(Path, "BUNDLE"),
    data: DataOption = None,
    data_dir: DataFolderOption = "",
    crop_fraction: CropOption = None,
    formats: tuple[Literal["float32", "int8"], ...] = ("float32", "int8"),
    verbose: bool = False,
) -> None:
    """Export a trained model as a bundle: SavedModel and TFLite files, each checked against the model.

    For example: convmixer export runs/digits --out digits_bundle

    Args:
        model: run folder, or .keras file that takes pixels 0..255.
        out: the bundle's folder; a bundle that is there is replaced once the new one is valid.
        data: digits, a folder with a subfolder of pictures for each label, or a name of tensorflow-datasets, to
            calibrate and validate with.
        data_dir: where tensorflow-datasets has its data.
        crop_fraction: share of a picture's shorter side that the model sees; the paper's ImageNet models: 0.96.
        formats: which .tflite files beside the SavedModel.
        verbose: show tracebacks and TensorFlow's own log.
    """
    with starting_tensorflow(verbose):
        from keras_convmixer.export import export_bundle
        from keras_convmixer.training import load_dataset, load_run

    run = load_run(model, crop_fraction)
    preprocessing = run.preprocessing
    with progress_bar() as progress:
        data = data or _own_data(run, model)
        dataset = load_dataset(data, preprocessing, run.class_names, progress, _data_dir(run, data_dir))
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
    tables.print_bundle(out, manifest)


@app.command
def predict(
    bundle: tyro.conf.Positional[argument(Path, "BUNDLE")],
    images: tyro.conf.Positional[argument(tuple[Path, ...], "IMAGE...", "one or more")],
    *,
    format: argument(str | None, "float32|int8", "float32") = None,
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
        raise UsageError("name at least one picture: convmixer predict BUNDLE IMAGE...")
    if top < 1:
        raise UsageError(f"--top {top}: give 1 or more")
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
                failures.append(sentence(error))
                line = {"file": str(path), "error": failures[-1]}
            if json:
                print_json(line, indent=None)
    if answers and not json:
        tables.print_predictions(answers)
    for failure in failures:
        print(f"convmixer: {failure}", file=sys.stderr)
    if failures:
        sys.exit(1)


@app.command
def variants(*, json: bool = False) -> None:
    """List the paper's variants: sizes, parameters, operations, reported accuracy, published weights.

    For example: convmixer variants

    Args:
        json: print one JSON object, with where each accuracy was reported, instead of a table.
    """
    from keras_convmixer.variants import VARIANTS

    if json:
        computed = {name: {"parameters": v.parameters, "gmacs": v.gmacs} for name, v in VARIANTS.items()}
        print_json({name: {**vars(variant), **computed[name]} for name, variant in VARIANTS.items()})
    else:
        tables.print_variants(VARIANTS)


@app.command
def convert(
    source: tyro.conf.Positional[argument(str, "IN")],
    out: tyro.conf.Positional[argument(Path, "OUT")],
    *,
    activation: argument(
        Literal["gelu", "relu"] | None, "gelu|relu", "the file's or the variant's own, else gelu"
    ) = None,
    image_size: argument(int | None, "INT", "the variant's own, else 224") = None,
    scaled_input: bool = False,
    verbose: bool = False,
) -> None:
    """Convert weights between PyTorch and Keras, either way.

    For example: convmixer convert model.safetensors model.keras

    Args:
        source: timm's .safetensors, the reference's .pth.tar, a .keras model, or the name of a variant with published
            weights, which are fetched from the Hugging Face hub.
        out: file to write, .keras for Keras or .safetensors for timm; one that is there is replaced.
        activation: what PyTorch's files do not say.
        image_size: side of the images that a .keras model is to take, in pixels.
        scaled_input: let a .keras model take what preprocess_input returns instead of pixels 0..255.
        verbose: show tracebacks and TensorFlow's own log.
    """
    with starting_tensorflow(verbose):
        from keras_convmixer.conversion import convert, require_target, source_file

    require_target(out)
    path = source_file(source)  # not below the spinner, as the hub shows a progress bar of its own
    with waiting(f"converting {source}"):
        model = convert(path, out, activation, image_size, not scaled_input)
    tables.print_conversion(source, out, model)


@app.command
def visualize(
    model: ModelArgument,
    image: tyro.conf.Positional[argument(Path | None, "IMAGE", "no receptive field, no Grad-CAM")] = None,
    *,
    out: argument(Path, "FOLDER") = Path("visualization"),
    crop_fraction: CropOption = None,
    verbose: bool = False,
) -> None:
    """Draw what a model has learned: patch filters, depthwise kernels, receptive field and Grad-CAM on an image.

    For example: convmixer visualize runs/digits digit.png

    Args:
        model: run folder, or .keras file that takes pixels 0..255.
        image: picture to show the effective receptive field and Grad-CAM on.
        out: folder to write PNG files to.
        crop_fraction: share of the picture's shorter side that the model sees; the paper's ImageNet models: 0.96.
        verbose: show tracebacks and TensorFlow's own log.
    """
    with starting_tensorflow(verbose):
        from keras_convmixer import imagenet, pictures
        from keras_convmixer.training import load_run

    require_folder_name(out)
    run = load_run(model, crop_fraction)
    pixels = run.preprocessing.load(image) if image else None
    names = run.class_names
    if names is None and run.model.output_shape[1:] == (imagenet.CLASSES,):
        names = tuple(name for _, name in imagenet.class_names())
    out.mkdir(parents=True, exist_ok=True)
    with waiting("drawing"):
        written = pictures.draw_all(run.model, pixels, out, names)
    print_facts(f"Visualized {model}", {"pictures": ", ".join(map(str, written))})


def _imagenet_ids(model, data):
    """Return ImageNet's ids where the model has its classes and the data has folders of their names, else None."""
    from keras_convmixer.imagenet import class_names

    ids = tuple(wordnet_id for wordnet_id, _ in class_names())
    folders = {path.name for path in Path(data).iterdir() if path.is_dir()} if Path(data).is_dir() else set()
    return ids if folders and folders <= set(ids) and model.output_shape[-1] == len(ids) else None


def _data_dir(run, given):
    return given or (run.recipe.data_dir if run.recipe else "")


def _own_data(run, path):
    what_to_do = "name pictures with --data, digits or a folder with one subfolder for each label"
    if run.recipe is None:
        raise UsageError(f"{path} has no recipe.json beside it: {what_to_do}")
    if Path(run.recipe.dataset).is_absolute() and not Path(run.recipe.dataset).is_dir():
        raise FileNotFoundError(f"{path} was trained on {run.recipe.dataset}, which is not there: {what_to_do}")
    return run.recipe.dataset


def main() -> None:
    """Run the command line of this process."""
    if sys.argv[1:2] == ["launch"]:  # what follows the recipe's name is for `convmixer train`
        first = next((place for place, word in enumerate(sys.argv) if word in RECIPES), None)
        if first is not None:
            sys.argv[first:] = [shlex.join(sys.argv[first:])]
    run_app(app)


if __name__ == "__main__":
    main()
