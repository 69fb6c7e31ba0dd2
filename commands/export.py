"""Commands that make a bundle of a model and classify pictures with it."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from keras_convmixer.console import print_json, progress_bar, silence_native_logs, waiting
from keras_convmixer.export.choices import DEFAULT_FORMATS, FormatName, OutputKind, Target
from keras_convmixer.images.decoding import LARGEST

from . import tables
from .command_line import UsageError, report_failure, sentence, starting_tensorflow
from .options import (
    CropOption,
    DataFolderOption,
    DataOption,
    Flag,
    ModelArgument,
    argument,
    data_dir_of,
    loaded_run,
    own_data,
    qat_file,
    reading,
)

SPLITS = ("train", "validation", "test")
SEED = 0
"""Seed for sampling images."""


def export(
    model: ModelArgument,
    *,
    out: argument(Path, "BUNDLE"),
    data: DataOption = None,
    data_dir: DataFolderOption = "",
    crop_fraction: CropOption = None,
    max_megapixels: float = 50.0,
    formats: tuple[FormatName, ...] = DEFAULT_FORMATS,
    target: Target = "litert",
    calibration: argument(str | None, "FOLDER|FILE.npz|NAME[:SPLIT]", "the training images") = None,
    calibration_images: int = 500,
    validation_images: int = 2000,
    output_kind: argument(OutputKind | None, "KIND", "from the model's end") = None,
    threshold: float = 0.5,
    name: argument(str | None, "NAME", "the model's") = None,
    license: argument(str | None, "SPDX", "not stated") = None,
    training_data: argument(str | None, "TEXT", "the run's data") = None,
    verbose: Flag = False,
) -> None:
    """Export a trained model for TF Serving and phones, and check it.

    The bundle holds a SavedModel, .tflite files, labels and a report. Each file is run on test images and compared with
    the model.

    For example: convmixer export runs/digits --out digits_bundle

    Args:
        model: run folder of `convmixer train`, or a .keras file whose model takes pixels 0..255.
        out: the bundle's folder; a bundle that is there is replaced once the new one is valid.
        data: "digits" (they come with scikit-learn); a folder with one subfolder of images for each label; or the name
            of a data set of tensorflow-datasets. Its images calibrate and validate.
        data_dir: folder in which tensorflow-datasets keeps its data.
        crop_fraction: share of an image's shorter side that the model sees, more than 0 and at most 1; the paper's
            ImageNet models were measured with 0.96.
        max_megapixels: largest image that the bundle reads, in millions of pixels; larger ones are refused unread.
        formats: .tflite files beside the SavedModel. float32; float16: half the size; dynamic: int8 weights and float
            activations, the fastest without calibration; int8: integers throughout; qat_int8: what `convmixer qat` left
            beside the model; int16x8: int8 weights and int16 activations; weight_int8 and weight_int4: small files that
            compute in float32.
        target: litert_int8 makes dynamic and int8 files faster on CPUs where kernels are 7x7 or larger, and two to
            three times as large; GPUs refuse a part of it.
        calibration: images for the value ranges of int8 and int16x8: a folder of images; an .npz or .npy file of uint8
            images; or a data set as in --data, with :train (which is the default), :validation or :test after it.
        calibration_images: number of images for these value ranges; all where there are fewer.
        validation_images: number of test images on which each file is compared with the model; all where there are
            fewer.
        output_kind: for a model that ends in logits: single-label, one of its classes; multi-label, each label by
            itself; binary, one output that decides between two. Not needed after a softmax or sigmoid.
        threshold: probability, between 0 and 1, from which multi-label and binary models give a label.
        name: the model's name in the bundle's manifest and card and in TF Serving's addresses.
        license: SPDX identifier of the model's license, such as apache-2.0, for the bundle's card.
        training_data: what the model was trained on, and its license, in one line for the bundle's card.
        verbose: show tracebacks and TensorFlow's own log.
    """
    for option, count in (("calibration", calibration_images), ("validation", validation_images)):
        if count < 1:
            raise UsageError(f"--{option}-images {count}: give 1 or more")
    if not 0 < max_megapixels <= LARGEST / 1e6:
        raise UsageError(f"--max-megapixels {max_megapixels}: give more than 0 and at most {LARGEST / 1e6:.0f}")
    max_pixels = max(round(max_megapixels * 1e6), 4)
    with starting_tensorflow(verbose):
        from keras_convmixer.export import export_bundle
        from keras_convmixer.export.report.text import without_local_paths
        from keras_convmixer.images.folders import report_left_out
        from keras_convmixer.training import load_dataset

    run = loaded_run(model, crop_fraction)
    trained = _trained_int8(model) if "qat_int8" in formats else None
    # The limit is the bundle's: pictures of one's own may be larger, up to the usual limit.
    preprocessing = replace(run.preprocessing, max_pixels=max(max_pixels, run.preprocessing.max_pixels))
    data = data or own_data(run, model)
    with reading(data) as progress:
        dataset = load_dataset(data, preprocessing, run.class_names, progress, data_dir_of(run, data_dir))
        source, chosen = _calibration(
            calibration, dataset, data, run, preprocessing, calibration_images, data_dir, progress
        )
        test = dataset.test.sample(validation_images, SEED)
        test_pixels = test.images[:]  # read only now where they do not fit into memory
    report_left_out(dataset.damaged, dataset.left_out)
    report_left_out(chosen.skipped, chosen.left_out)
    manifest = export_bundle(
        run.model,
        out,
        class_names=dataset.class_names,
        calibration_images=chosen.images,
        validation_images=test_pixels,
        validation_labels=test.labels,
        calibration_source=source,
        calibration_seed=SEED,
        calibration_skipped=tuple(without_local_paths(sentence, calibration or data) for sentence in chosen.skipped),
        formats=formats,
        target=target,
        qat_int8=trained,
        crop_fraction=preprocessing.crop_fraction,
        max_pixels=max_pixels,
        output_kind=output_kind,
        threshold=threshold,
        # Pictures that are not the run's own may be harder.
        expected_accuracy=run.accuracy if data == (run.recipe and run.recipe.data.dataset) else None,
        name=name,
        license=license,
        training_data=training_data or (run.recipe and _for_others(run.recipe.data.dataset)),
    )
    tables.print_bundle(out, manifest)
    for file in manifest["rejected"]:
        report_failure("export", f"not published: {file['reason']}")
    if manifest["rejected"]:
        sys.exit(1)


def _calibration(given, dataset, data, run, preprocessing, count, data_dir, progress):
    """Return what the calibration images are, and the images."""
    from keras_convmixer.export.calibration import ARRAYS, Calibration, read_calibration
    from keras_convmixer.training import load_dataset
    from keras_convmixer.training.data.label_folders import may_share_test_images

    if given is None:
        return f"training images of {_for_others(data)}", Calibration(dataset.train.sample(count, SEED).images[:])
    shared = UsageError(
        f"--calibration {given}: each file is validated with images of it; name others, or leave it out"
    )
    name, _, split = given.rpartition(":")
    if split not in SPLITS:
        name, split = given, "train"
        if given.startswith(("/", ".")) or Path(given).is_dir() or Path(given).suffix in ARRAYS:
            if Path(given).is_dir() and Path(data).is_dir() and may_share_test_images(Path(given), Path(data)):
                raise shared
            source = "pictures of a folder" if Path(given).is_dir() else "images of an array file"
            return source, read_calibration(Path(given), preprocessing, count, SEED, progress)
    same = name == data or (Path(data).is_dir() and Path(name).resolve() == Path(data).resolve())
    if same and split == "test":
        raise shared
    if not same:
        dataset = load_dataset(name, preprocessing, None, progress, data_dir_of(run, data_dir))
    images = getattr(dataset, split).sample(count, SEED).images[:]
    # The data that is validated on is reported already.
    left = () if same else dataset.left_out
    return f"{split} images of {_for_others(name)}", Calibration(images, () if same else dataset.damaged, left)


def _for_others(data):
    """Return what a bundle may say of the data that it was made with: not where on this machine a folder is."""
    return "a folder of pictures" if Path(data).is_dir() else data


def _trained_int8(model):
    file = qat_file(model)
    if not file.is_file():
        raise UsageError(f"{file} is not there, which format qat_int8 needs: make it with convmixer qat {model}")
    return file.read_bytes()


def inspect(
    file: tyro.conf.Positional[argument(Path, "FILE.tflite")],
    *,
    json: Flag = False,
    verbose: Flag = False,
) -> None:
    """Show what a .tflite file holds: operators, tensors, labels.

    It says which operators XNNPACK, LiteRT's fast CPU code, runs. TensorFlow is not needed.

    For example: convmixer inspect digits_bundle/litert/int8.tflite

    Args:
        file: any .tflite file.
        json: print one JSON object instead of tables.
        verbose: show tracebacks and LiteRT's own log.
    """
    from keras_convmixer.export import inspect

    if not verbose:
        silence_native_logs()
    found = inspect(file)
    if json:
        print_json(vars(found))
    else:
        tables.print_inspection(file, found)


def benchmark(
    bundle: tyro.conf.Positional[argument(Path, "BUNDLE")],
    *,
    threads: tuple[int, ...] = (1, 2),
    seconds: float = 3.0,
    picture: argument(Path | None, "FILE.png", "none") = None,
    json: Flag = False,
    verbose: Flag = False,
) -> None:
    """Time a bundle's .tflite files on this machine.

    It measures latency, start-up time and memory, one image at a time. TensorFlow is not needed.

    For example: convmixer benchmark digits_bundle --picture speed.png

    Args:
        bundle: bundle of `convmixer export`.
        threads: numbers of threads to measure each file with.
        seconds: seconds for each file and number of threads, in three rounds that take turns.
        picture: PNG file for a figure of latency, accuracy and size.
        json: print one JSON list instead of a table.
        verbose: show tracebacks.
    """
    from keras_convmixer.export import benchmark, draw_benchmark, read_manifest
    from keras_convmixer.export.runtime.benchmarking import ROUNDS

    if not threads or min(threads) < 1 or seconds <= 0:
        raise UsageError(f"--threads {' '.join(map(str, threads))} --seconds {seconds}: give more than 0")
    if picture and picture.suffix != ".png":
        raise UsageError(f"--picture {picture}: name a .png file")
    files = sum(artifact["format"] == "litert" for artifact in read_manifest(bundle)["artifacts"])
    with progress_bar(not json) as progress:
        task = progress.add_task("timing", total=files * len(threads) * ROUNDS, detail="")
        timings = benchmark(bundle, threads, seconds, lambda name: progress.update(task, advance=1, detail=name))
    if picture:
        with waiting("drawing"):
            draw_benchmark(bundle, timings, picture)
    if json:
        print_json([vars(timing) for timing in timings])
    else:
        tables.print_benchmark(bundle, timings, picture)


def predict(
    bundle: tyro.conf.Positional[argument(Path, "BUNDLE")],
    images: tyro.conf.Positional[
        Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="(one or more)")]
    ],
    *,
    format: argument(str | None, "FORMAT", "float32") = None,
    top: int = 5,
    json: Flag = False,
    verbose: Flag = False,
) -> None:
    """Classify images with an exported model.

    TensorFlow is not needed.

    For example: convmixer predict digits_bundle digit.png another.jpg

    Args:
        bundle: bundle of `convmixer export`, or a .tflite file.
        images: JPEG, PNG, WebP, AVIF, TIFF, GIF, BMP, JPEG 2000 or PPM files; grayscale, transparent and rotated ones
            too.
        format: name of one of the bundle's .tflite files, such as int8.
        top: number of labels to print for each image.
        json: print one JSON object for each image, one on a line, instead of a table.
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
                line = {"file": str(path), "predictions": [prediction.facts() for prediction in answers[-1][1]]}
            except (OSError, ValueError) as error:
                failures.append(sentence(error))
                line = {"file": str(path), "error": failures[-1]}
            if json:
                print_json(line, indent=None)
    if answers and not json:
        tables.print_predictions(answers)
    for failure in failures:
        report_failure("predict", failure)
    if failures:
        sys.exit(1)
