"""The command that trains a model for 8 bits."""

import dataclasses

from keras_convmixer.atomic import atomic_file
from keras_convmixer.console import print_facts, progress_bar

from .command_line import UsageError, argument, starting_tensorflow
from .options import DataFolderOption, DataOption, ModelArgument, data_dir_of, own_data, qat_file


def qat(
    model: ModelArgument,
    *,
    epochs: int = 3,
    steps: argument(int | None, "INT", "those of all epochs") = None,
    learning_rate: float = 1e-3,
    batch_size: argument(int | None, "INT", "the recipe's") = None,
    data: DataOption = None,
    data_dir: DataFolderOption = "",
    verbose: bool = False,
) -> None:
    """Train a model on as int8 would compute it; leave qat_int8.tflite beside it, which export takes and checks.

    For example: convmixer qat runs/digits, then convmixer export runs/digits --out bundle --formats int8 qat_int8

    Args:
        model: run folder of `convmixer train`, whose recipe's data and augmentation are used.
        epochs: how many times to go through the training images.
        steps: how many batches to train on, instead.
        learning_rate: of Adafactor at the first step, a share of each layer's weights; falls to 0.
        batch_size: images in a step.
        data: digits, a folder with a subfolder of pictures for each label, or a name of tensorflow-datasets.
        data_dir: where tensorflow-datasets has its data.
        verbose: show tracebacks and TensorFlow's own log.
    """
    with starting_tensorflow(verbose):
        from keras_convmixer.export import quantization_aware
        from keras_convmixer.training import load_dataset, load_run
        from keras_convmixer.training.input import distributed_batches
        from keras_convmixer.training.strategy import choose

    run = load_run(model)
    if run.recipe is None:
        raise UsageError(f"{model} has no recipe.json beside it: name a run folder of `convmixer train`")
    for option, value in (("epochs", epochs), ("steps", steps), ("batch-size", batch_size)):
        if value is not None and value < 1:
            raise UsageError(f"--{option} {value}: give 1 or more")
    recipe = dataclasses.replace(run.recipe, batch_size=batch_size or run.recipe.batch_size, accumulation=1)
    with progress_bar() as progress:
        folder = data_dir_of(run, data_dir)
        data = data or own_data(run, model)
        dataset = load_dataset(data, run.preprocessing, run.class_names, progress, folder, crops=recipe.crops)
    steps_per_epoch = len(dataset.train) // recipe.batch_size
    if not steps_per_epoch:
        raise UsageError(
            f"a batch of {recipe.batch_size} is more than the {len(dataset.train)} images: give --batch-size"
        )
    steps = steps or epochs * steps_per_epoch
    batches = distributed_batches(dataset.train, len(dataset.class_names), recipe, choose("one_device"), 0, steps)
    content = quantization_aware(run.model, batches, steps, learning_rate)
    with atomic_file(qat_file(model)) as file:
        file.write_bytes(content)
    print_facts(
        f"Trained for int8 in {steps:,} steps",
        {
            "file": f"{qat_file(model)}, {len(content) / 1000:,.1f} kB",
            "next": f"convmixer export {model} --out BUNDLE --formats int8 qat_int8",
        },
    )
