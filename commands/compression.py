"""Commands that train a model further, so that it takes less room: in int8, pruned, or clustered."""

from pathlib import Path
from typing import Literal

import tyro

from keras_convmixer.environment.console import print_facts, print_line
from keras_convmixer.export.qat.arguments import check_numbers, qat_file
from keras_convmixer.files.atomic import atomic_file, atomic_folder, require_folder_name
from keras_convmixer.training.runs.model_file import copy_recipe_and_labels

from . import options, tables
from .command_line import UsageError, starting_tensorflow
from .options import argument

# What both commands take.
Run = tyro.conf.Positional[
    argument(Path, "RUN", help="run folder of `convmixer train`; its recipe's data and augmentation are used.")
]
Epochs = argument(int, "INT", help="passes over the training images.")
Steps = argument(int | None, "INT", "those of all epochs", "number of batches to train on, instead of epochs.")
BatchSize = argument(int | None, "INT", "the recipe's", "images in one step.")
RATE = "size of a first step, as a share of each layer's weights, more than 0 and less than 1; it falls to 0."


def qat(
    model: Run,
    *,
    epochs: Epochs = 3,
    steps: Steps = None,
    learning_rate: argument(float, "FLOAT", help=RATE) = 1e-3,
    batch_size: BatchSize = None,
    data: options.Data = None,
    data_dir: options.DataDir = "",
    verbose: options.Verbose = False,
) -> None:
    """Train a model further so that it stays accurate in int8.

    This is quantization-aware training. It writes qat_int8.tflite beside the model; `convmixer export` with --formats
    qat_int8 checks it and puts it into a bundle.

    For example: convmixer qat runs/digits
    """
    check_numbers(steps=steps, learning_rate=learning_rate)
    with starting_tensorflow(verbose, model):
        from keras_convmixer.export import quantization_aware

    run = options.load_model(model)
    training = _load_training(run, data, data_dir, epochs=epochs, steps=steps, batch_size=batch_size)
    steps, batches = training.steps, training.batches()
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


def compress(
    model: Run,
    *,
    out: argument(Path, "FOLDER"),
    method: Literal["prune", "cluster"] = "prune",
    sparsity: argument(float | None, "FLOAT", "0.8") = None,
    clusters: argument(int | None, "INT", "16") = None,
    epochs: Epochs = 5,
    steps: Steps = None,
    learning_rate: argument(float | None, "FLOAT", "0.02 to prune, 0.001 to cluster", RATE) = None,
    batch_size: BatchSize = None,
    data: options.Data = None,
    data_dir: options.DataDir = "",
    verbose: options.Verbose = False,
) -> None:
    """Train a model further for a smaller download under gzip.

    Pruning sets the smallest weights to 0; clustering lets weights share a few values. On a CPU the model runs as fast
    as before, not faster.

    For example: convmixer compress runs/digits --out runs/digits_pruned

    Args:
        out: new run folder for the compressed model, which `convmixer export` takes.
        method: prune or cluster.
        sparsity: for prune: share of the weights of each convolution and dense layer that become 0, between 0 and 1.
        clusters: for cluster: number of values that these weights share, 2 or more.
    """
    require_folder_name(out)
    if out.exists():
        raise UsageError(f"{out} is there: name a new folder with --out, or move it away")
    if (clusters if method == "prune" else sparsity) is not None:
        raise UsageError("--sparsity is prune's and --clusters is cluster's: leave one out, or name the other --method")
    check_numbers(steps=steps, learning_rate=learning_rate, sparsity=sparsity, clusters=clusters)
    with starting_tensorflow(verbose, model):
        from keras_convmixer.export import cluster, prune
        from keras_convmixer.export.qat.compression import file_sizes, sparsity_of
        from keras_convmixer.training.evaluation import evaluate

    run = options.load_model(model)
    training = _load_training(run, data, data_dir, epochs=epochs, steps=steps, batch_size=batch_size)
    given = {"sparsity": sparsity, "clusters": clusters, "learning_rate": learning_rate}
    given = {name: value for name, value in given.items() if value is not None}
    compressed = {"prune": prune, "cluster": cluster}[method](run.model, training.batches(), training.steps, **given)
    with atomic_folder(out) as folder:
        compressed.save(folder / "model.keras")
        copy_recipe_and_labels(model, folder)
    test = training.dataset.test
    rows = {}
    for name, found in (("before", run.model), ("after", compressed)):
        with options.counting(f"evaluating {name}", len(test)) as count:
            rows[name] = (evaluate(found, test, batch_done=count).accuracy, *file_sizes(found), sparsity_of(found))
    tables.print_compression(out, training.steps, len(test), rows)
    print_line(f"next: convmixer export {out} --out BUNDLE")


def _load_training(run, data, data_dir, **numbers):
    """Load a run's training data once more, and show it."""
    from keras_convmixer.images.folders import report_left_out
    from keras_convmixer.training.further import load_further_training

    data, data_dir = run.data_or_own(data), run.data_dir_or_own(data_dir)
    with options.reading(data) as progress:
        training = load_further_training(run, data, data_dir=data_dir, progress=progress, **numbers)
    report_left_out(training.dataset.damaged, training.dataset.left_out)
    return training
