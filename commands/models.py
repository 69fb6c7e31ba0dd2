"""Commands about a model: how good it is, what it looks like, the paper's variants, weights from PyTorch and back."""

from pathlib import Path
from typing import Literal

import tyro

from keras_convmixer.console import print_facts, print_json, progress_bar, waiting
from keras_convmixer.files.atomic import require_folder_name

from . import tables
from .command_line import argument, starting_tensorflow
from .options import CropOption, DataFolderOption, DataOption, ModelArgument, data_dir_of, own_data


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
        from keras_convmixer.images.folders import report_left_out
        from keras_convmixer.training import evaluate, load_dataset, load_images, load_run

    if out:
        require_folder_name(out)
    run = load_run(model, crop_fraction)
    data = data or own_data(run, model)
    class_names = run.class_names or _imagenet_ids(run.model, data)
    own = run.recipe is not None and Path(data).resolve() == Path(run.recipe.dataset).resolve()
    with progress_bar() as progress:
        if Path(data).is_dir() and data != "digits" and not own:
            dataset = load_images(data, run.preprocessing, class_names, progress)
            class_names, split = dataset.class_names, dataset.split
            images = f"all {len(split):,} images of {data}"
        else:
            dataset = load_dataset(data, run.preprocessing, class_names, progress, data_dir_of(run, data_dir))
            class_names, split = dataset.class_names, dataset.test
            images = f"the {len(split):,} test images of {data}"
    report_left_out(dataset.damaged, dataset.left_out)
    classes = max(run.model.output_shape[-1], 2)  # one output tells two classes apart
    if len(class_names) != classes:
        raise ValueError(
            f"{data} has {len(class_names)} labels, and the model has {classes} classes: write the "
            f"label of each class, one a line, to {model.with_name('labels.txt')}"
        )
    result = evaluate(run.model, split)
    if out:
        from keras_convmixer.training.runs import figures

        out.mkdir(parents=True, exist_ok=True)
        figures.draw_confusion(result, class_names, out / "confusion.png")
        figures.draw_predictions(split.images, result, class_names, out / "predictions.png")
    classes = result.by_class(class_names)
    if json:
        facts = {"images": len(split), "damaged_images": len(dataset.damaged)}
        print_json({**facts, "accuracy": result.accuracy, "loss": result.loss, "classes": classes})
    else:
        tables.print_evaluation(f"Evaluated {model} on {images}", result.accuracy, result.loss, classes, out)


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
        from keras_convmixer import imagenet
        from keras_convmixer.training import load_run
        from keras_convmixer.visualization import figures as pictures

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
        source: timm's .safetensors, PyTorch's .pth, .pth.tar or .ckpt, Keras's .keras or .weights.h5, or the name of a
            variant with published weights, which are fetched from the Hugging Face hub.
        out: file to write, .keras for Keras or .safetensors for timm; one that is there is replaced.
        activation: what PyTorch's files do not say.
        image_size: side of the images that a .keras model is to take, in pixels.
        scaled_input: let a .keras model take what preprocess_input returns instead of pixels 0..255.
        verbose: show tracebacks and TensorFlow's own log.
    """
    with starting_tensorflow(verbose):
        from keras_convmixer.weights.conversion import convert, require_target, source_file

    require_target(out)
    path = source_file(source)  # not below the spinner, as the hub shows a progress bar of its own
    with waiting(f"converting {source}"):
        model = convert(path, out, activation, image_size, not scaled_input)
    tables.print_conversion(source, out, model)


def _imagenet_ids(model, data):
    """Return ImageNet's ids where the model has its classes and the data has folders of their names, else None."""
    from keras_convmixer.imagenet import class_names
    from keras_convmixer.images.folders import subfolders

    ids = tuple(wordnet_id for wordnet_id, _ in class_names())
    folders = {path.name for path in subfolders(Path(data))} if Path(data).is_dir() else set()
    return ids if folders and folders <= set(ids) and model.output_shape[-1] == len(ids) else None
