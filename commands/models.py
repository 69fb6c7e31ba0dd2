"""Commands about a model: how good it is, what it looks like, the paper's variants, weights from PyTorch and back."""

from pathlib import Path
from typing import Literal

import tyro

from keras_convmixer.environment.console import print_facts, print_json, waiting
from keras_convmixer.files.atomic import require_folder_name
from keras_convmixer.images.decoding import read_image
from keras_convmixer.weights.conversion_files import require_source, require_target, source_file

from . import options, tables
from .command_line import starting_tensorflow
from .options import Flag, argument


def evaluate(
    model: options.Model,
    *,
    data: options.Data = None,
    data_dir: options.DataDir = "",
    crop_fraction: options.CropFraction = None,
    out: argument(Path | None, "FOLDER", "no figures") = None,
    json: Flag = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure a trained model's accuracy on labeled images.

    The test images are used, and all images of a folder that the model was not trained on.

    For example: convmixer evaluate runs/digits --out evaluation

    Args:
        out: folder for two figures: a confusion matrix and a sheet of predictions.
        json: print one JSON object instead of tables.
    """
    if out:
        require_folder_name(out)
    with starting_tensorflow(verbose, model):
        from keras_convmixer.images.folders import report_left_out
        from keras_convmixer.training import evaluate
        from keras_convmixer.training.runs.evaluation_images import load_evaluation_images

    run = options.load_model(model, crop_fraction)
    data = run.data_or_own(data)
    with options.reading(data) as progress:
        images = load_evaluation_images(run, data, run.data_dir_or_own(data_dir), progress)
    report_left_out(images.damaged, images.left_out)
    with options.counting("evaluating", len(images.split)) as count:
        result = evaluate(run.model, images.split, batch_done=count)
    if out:
        with waiting("drawing"):
            from keras_convmixer.training.runs import figures

            out.mkdir(parents=True, exist_ok=True)
            figures.draw_confusion(result, images.class_names, out / "confusion.png")
            figures.draw_predictions(images.split.images, result, images.class_names, out / "predictions.png")
    classes = result.by_class(images.class_names)
    if json:
        facts = {"images": len(images.split), "damaged_images": len(images.damaged)}
        print_json({**facts, "accuracy": result.accuracy, "loss": result.loss, "classes": classes})
    else:
        tables.print_evaluation(f"Evaluated {model} on {images.described}", result.accuracy, result.loss, classes, out)


def visualize(
    model: options.Model,
    image: tyro.conf.Positional[argument(Path | None, "IMAGE", "no receptive field, no Grad-CAM")] = None,
    *,
    out: argument(Path, "FOLDER") = Path("visualization"),
    crop_fraction: options.CropFraction = None,
    verbose: options.Verbose = False,
) -> None:
    """Draw a model's filters and, on an image, what it looks at.

    The figures are the patch embedding's filters and the depthwise kernels; with an image also the effective receptive
    field and Grad-CAM.

    For example: convmixer visualize runs/digits digit.png

    Args:
        image: image for the receptive field and Grad-CAM.
        out: folder for the PNG files.
    """
    require_folder_name(out)
    if image:
        read_image(image)  # refuses what is not an image before TensorFlow starts
    with starting_tensorflow(verbose, model):
        from keras_convmixer.visualization import figures

    run = options.load_model(model, crop_fraction)
    pixels = run.preprocessing.load(image) if image else None
    out.mkdir(parents=True, exist_ok=True)
    with waiting("drawing"):
        written = figures.draw_all(run.model, pixels, out, run.names_or_imagenet())
    print_facts(f"Visualized {model}", {"figures": ", ".join(map(str, written))})


def variants(*, json: Flag = False) -> None:
    """List the paper's models: size, cost, reported accuracy.

    For example: convmixer variants

    Args:
        json: print one JSON object, with the source of each accuracy, instead of a table.
    """
    from keras_convmixer.model.variants import VARIANTS

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
    scaled_input: Flag = False,
    verbose: options.Verbose = False,
) -> None:
    """Convert weights from PyTorch to Keras or back.

    For example: convmixer convert model.safetensors model.keras

    Args:
        source: a .safetensors file of timm; a .pth, .pth.tar or .ckpt file of PyTorch; a .keras or .weights.h5 file of
            Keras; or a name from `convmixer variants` with published weights, which are downloaded from the Hugging
            Face hub.
        out: file to write, .keras for Keras or .safetensors for timm; an existing one is replaced.
        activation: the model's activation function, which PyTorch's files do not name.
        image_size: height and width, in pixels, of the images that a .keras file's model takes.
        scaled_input: let a .keras file's model take what preprocess_input returns, instead of pixels 0..255.
    """
    require_target(out)
    require_source(source)
    with starting_tensorflow(verbose):
        from keras_convmixer.weights.conversion import convert, summary

    path = source_file(source)  # not below the spinner, as the hub shows a progress bar of its own
    with waiting(f"converting {source}"):
        model = convert(path, out, activation, image_size, scaled_input)
    tables.print_conversion(source, out, summary(model))
