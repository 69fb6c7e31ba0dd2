"""Commands that make a bundle of a model and classify images with it."""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import tyro

from keras_convmixer.environment.console import print_json, progress_bar, silence_native_logs, waiting
from keras_convmixer.export.choices import DEFAULT_FORMATS, FormatName, OutputKind, Target
from keras_convmixer.export.qat.arguments import read_qat_file
from keras_convmixer.images.decoding import LARGEST

from . import options, tables
from .command_line import UsageError, report_failure, sentence, starting_tensorflow
from .options import Flag, argument

SEED = 0
"""Seed for sampling images."""


def export(
    model: options.Model,
    *,
    out: argument(Path, "BUNDLE"),
    data: options.Data = None,
    data_dir: options.DataDir = "",
    crop_fraction: options.CropFraction = None,
    max_megapixels: float = 50.0,
    formats: argument(tuple[FormatName, ...], "FORMAT...") = DEFAULT_FORMATS,
    target: argument(Target, "NAME") = "litert",
    calibration: argument(str | None, "FOLDER|FILE.npz|NAME[:SPLIT]", "the training images") = None,
    calibration_images: int = 500,
    validation_images: int = 2000,
    output_kind: argument(OutputKind | None, "KIND", "from the model's end") = None,
    threshold: float = 0.5,
    name: argument(str | None, "NAME", "the model's") = None,
    license: argument(str | None, "SPDX", "not stated") = None,
    training_data: argument(str | None, "TEXT", "the run's data") = None,
    verbose: options.Verbose = False,
) -> None:
    """Export a trained model for TF Serving and phones, and check it.

    The bundle holds a SavedModel, .tflite files, labels and a report. Each file is run on test images of --data and
    compared with the model; training images calibrate.

    For example: convmixer export runs/digits --out digits_bundle

    Args:
        out: the bundle's folder; a bundle that is there is replaced once the new one is valid.
        max_megapixels: largest image that the bundle reads, in millions of pixels; larger ones are refused unread.
        formats: .tflite files beside the SavedModel. float32; float16: half the size; dynamic: int8 weights,
            activations in int8 while it computes, the fastest without calibration; int8: integers throughout; qat_int8:
            what `convmixer qat` left beside the model; int16x8: int8 weights and int16 activations; weight_int8 and
            weight_int4: small files that compute in float32.
        target: litert, for CPUs; litert_int8 makes dynamic and int8 files faster on CPUs where kernels are 7x7 or
            larger, and two to three times as large; litert_gpu makes all files but qat_int8 for GPUs, as
            float16 always is.
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
    """
    for option, count in (("calibration", calibration_images), ("validation", validation_images)):
        if count < 1:
            raise UsageError(f"--{option}-images {count}: give 1 or more")
    if not 0 < max_megapixels <= LARGEST / 1e6:
        raise UsageError(f"--max-megapixels {max_megapixels}: give more than 0 and at most {LARGEST / 1e6:.0f}")
    max_pixels = max(round(max_megapixels * 1e6), 4)
    from keras_convmixer.export.validation.folder import check_out  # asks for jsonschema

    check_out(out)
    with starting_tensorflow(verbose, model):
        from keras_convmixer.export import export_bundle
        from keras_convmixer.export.calibration import choose_calibration, data_for_others
        from keras_convmixer.export.report.text import without_local_paths
        from keras_convmixer.images.folders import report_left_out
        from keras_convmixer.training import load_dataset

    run = options.load_model(model, crop_fraction)
    trained = read_qat_file(model) if "qat_int8" in formats else None
    # The limit is the bundle's: images of one's own may be larger, up to the usual limit.
    preprocessing = replace(run.preprocessing, max_pixels=max(max_pixels, run.preprocessing.max_pixels))
    data, data_dir = run.data_or_own(data), run.data_dir_or_own(data_dir)
    with options.reading(data) as progress:

        def load(name, class_names=None):
            return load_dataset(name, preprocessing, class_names, progress, data_dir)

        dataset = load(data, run.class_names)
        chosen = choose_calibration(calibration, data, dataset, load, preprocessing, calibration_images, SEED, progress)
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
        calibration_source=chosen.source,
        calibration_seed=SEED,
        calibration_skipped=tuple(without_local_paths(sentence, calibration or data) for sentence in chosen.skipped),
        formats=formats,
        target=target,
        qat_int8=trained,
        crop_fraction=preprocessing.crop_fraction,
        max_pixels=max_pixels,
        output_kind=output_kind,
        threshold=threshold,
        # Images that are not the run's own may be harder.
        expected_accuracy=run.accuracy if data == (run.recipe and run.recipe.data.dataset) else None,
        name=name,
        license=license,
        training_data=training_data or (run.recipe and data_for_others(run.recipe.data.dataset)),
    )
    tables.print_bundle(out, manifest)
    for file in manifest["rejected"]:
        report_failure("export", f"not published: {file['reason']}")
    if manifest["rejected"]:
        sys.exit(1)


def inspect(
    file: tyro.conf.Positional[argument(Path, "FILE.tflite|BUNDLE")],
    *,
    json: Flag = False,
    verbose: options.Verbose = False,
) -> None:
    """Show what a .tflite file holds, and which engines take it.

    It says how many operators XNNPACK, LiteRT's engine for CPUs, runs on this machine, and how many LiteRT's GPU
    engine, Coral's Edge TPU and the NPU plugins of Qualcomm and MediaTek take by their lists. TensorFlow is not needed.

    For example: convmixer inspect digits_bundle/litert/int8.tflite

    Args:
        file: any .tflite file; or a bundle, for a table of its files.
        json: print one JSON object instead of tables.
    """
    from keras_convmixer.export import inspect, read_manifest

    if not verbose:
        silence_native_logs()
    if not file.is_dir():
        found = inspect(file)
        print_json(asdict(found)) if json else tables.print_inspection(file, found)
        return
    entries = [entry for entry in read_manifest(file)["artifacts"] if entry["format"] == "litert"]
    found = {str(file / entry["path"]): inspect(file / entry["path"]) for entry in entries}
    # Of the GPU engine, what export measured counts more than the list.
    accelerated = {str(file / entry["path"]): entry.get("accelerated") for entry in entries}
    if json:
        print_json({path: {**asdict(each), "accelerated": accelerated[path]} for path, each in found.items()})
    else:
        tables.print_files(file, found, accelerated)


def benchmark(
    bundle: options.Bundle,
    *,
    threads: argument(tuple[int, ...], "INT...") = (1, 2),
    seconds: float = 3.0,
    figure: argument(Path | None, "FILE.png", "none") = None,
    json: Flag = False,
    verbose: options.Verbose = False,
) -> None:
    """Time a bundle's .tflite files on this machine.

    It measures latency, start-up time and memory, one image at a time. TensorFlow is not needed.

    For example: convmixer benchmark digits_bundle --figure speed.png

    Args:
        threads: numbers of threads to measure each file with.
        seconds: seconds for each file and number of threads, in three rounds that take turns.
        figure: PNG file for a figure of latency, accuracy and size.
        json: print one JSON list instead of a table.
    """
    from keras_convmixer.export import benchmark, draw_benchmark
    from keras_convmixer.export.manifest import litert_files
    from keras_convmixer.export.runtime.benchmarking import ROUNDS

    if figure and figure.suffix != ".png":
        raise UsageError(f"--figure {figure}: name a .png file")
    with progress_bar(not json) as progress:
        task = progress.add_task("timing", total=len(litert_files(bundle)) * len(threads) * ROUNDS, detail="")
        timings = benchmark(bundle, threads, seconds, lambda name: progress.update(task, advance=1, detail=name))
    if figure:
        with waiting("drawing"):
            draw_benchmark(bundle, timings, figure)
    if json:
        print_json([vars(timing) for timing in timings])
    else:
        tables.print_benchmark(bundle, timings, figure)


def predict(
    bundle: tyro.conf.Positional[argument(Path, "BUNDLE")],
    images: tyro.conf.Positional[
        Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="(one or more)")]
    ],
    *,
    format: argument(str | None, "FORMAT", "float32") = None,
    top: int = 5,
    json: Flag = False,
    verbose: options.Verbose = False,
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
    """
    from keras_convmixer.export import Classifier

    if not images:
        raise UsageError("name at least one image: convmixer predict BUNDLE IMAGE...")
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
