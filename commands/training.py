"""Commands that train, and that say what there is to train and what it costs."""

import contextlib
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from keras_convmixer.environment.console import print_json, waiting
from keras_convmixer.training.recipes import DESCRIPTIONS, RECIPES

from . import options, tables
from .command_line import UsageError, first_line, option_names, read, starting_tensorflow
from .options import Flag, argument

RecipeArgument = Annotated[
    tyro.extras.subcommand_type_from_defaults(
        RECIPES, {name: first_line(description) for name, description in DESCRIPTIONS.items()}
    ),
    tyro.conf.arg(name=""),
]


def train(
    recipe: RecipeArgument,
    *,
    runs: argument(Path, "FOLDER") = Path("runs"),
    overwrite: Flag = False,
    strategy: argument(Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"], "NAME") = "auto",
    checkpoint_minutes: argument(float, "N") = 10.0,
    steps_per_call: argument(int | None, "INT", "20 on GPUs and TPUs, 1 on CPUs") = None,
    rollbacks: int = 0,
    look_up_country: Flag = False,
    verbose: options.Verbose = False,
) -> None:
    """Train a model by a recipe; the same command resumes a stopped run.

    The run's folder then holds the model, its metrics and figures.

    For example: convmixer train digits --epochs 10 --name short

    Args:
        recipe: what to train; `convmixer train RECIPE --help` shows the options of its model, data, augmentation and
            optimization.
        runs: folder for the run's folder, which is called after the recipe or --name.
        overwrite: train again where there is a trained model, or a run with other options; an unfinished run with the
            same options is resumed all the same.
        strategy: devices: auto (all GPUs of this machine or cluster), one_device, mirrored, multi_worker or tpu.
        checkpoint_minutes: minutes between checkpoints; the end of each epoch is one too.
        steps_per_call: training steps in one call of TensorFlow; more is faster on GPUs and TPUs.
        rollbacks: times that a run whose loss explodes returns to its last checkpoint, at half the learning rate.
        look_up_country: ask geojs.io or ipinfo.io for the country whose electricity decides CO2, instead of the
            environment variable CODECARBON_COUNTRY_ISO_CODE, such as FRA, or the world's average.
    """
    with starting_tensorflow(verbose):
        from keras_convmixer.training import train

    run = runs / recipe.name
    calls = (checkpoint_minutes, steps_per_call, rollbacks)
    summary = train(recipe, run, overwrite, strategy, *calls, look_up_country=look_up_country)
    if summary:  # the chief's
        tables.print_training(run, summary)


def launch(
    arguments: tyro.conf.Positional[argument(str, "RECIPE ...")],
    *,
    workers: int = 2,
    restarts: int = 10,
    startup_seconds: float = 1800.0,
    stall_seconds: float = 600.0,
    network: Flag = False,
) -> None:
    """Train with several processes on this machine's CPUs.

    When a process dies or stalls, all are started again from the last checkpoint. The options of launch stand before
    the recipe, those of `convmixer train` after it.

    For example: convmixer launch --workers 2 digits --epochs 10

    Args:
        arguments: what `convmixer train` takes: a recipe, then its options.
        workers: processes that train together, each on its share of every batch.
        restarts: how many times all processes are started again.
        startup_seconds: seconds in which every process must have loaded its data and done a first step.
        stall_seconds: seconds without a step, evaluation included, after which a process counts as stalled.
        network: leave the processes in this machine's network, for data on other machines; others then reach them
            without a password. Addresses such as gs://... and published weights need no such option.
    """
    from keras_convmixer.training.launch import Launch

    if workers < 1:
        raise UsageError(f"--workers {workers}: give 1 or more")
    words = ["train", *shlex.split(arguments)]
    for option in {f"--{name}" for name in option_names(launch) - option_names(train)} & set(words):
        raise UsageError(f"{option} stands before the recipe's name, as in: convmixer launch --workers 2 digits")
    read(words, {"train": train})  # refuses wrong ones before a process starts
    sys.exit(Launch(words, workers, restarts, startup_seconds, stall_seconds, network).run())


def plan(
    recipe: RecipeArgument,
    *,
    gpus: int = 1,
    hosts: int = 1,
    device: argument(str, "NAME|here") = "here",
    images: argument(int | None, "INT", "the data set's own") = None,
    classes: argument(int | None, "INT", "the data set's own") = None,
    json: Flag = False,
    verbose: options.Verbose = False,
) -> None:
    """Estimate what a recipe costs: memory, time and energy.

    For example: convmixer plan imagenet_1536_20 --gpus 8 --hosts 4 --device h200

    Args:
        recipe: what to train; `convmixer plan RECIPE --help` shows the options of its model, data, augmentation and
            optimization.
        gpus: devices on each host.
        hosts: hosts that train together.
        device: t4, v100, rtx8000, l4, a100, h100 or h200, by their data sheets; or here, this machine's processor,
            which is measured for some seconds.
        images: number of training images, for a data set whose size is not known here.
        classes: number of labels, likewise.
        json: print one JSON object instead of a table.
    """
    from keras_convmixer.training.plan import DEVICES, data_size, plan

    if device != "here" and device not in DEVICES:
        raise UsageError(f"--device {device}: there are here, {', '.join(DEVICES)}")
    size = data_size(recipe, images, classes)
    if device == "here":
        with starting_tensorflow(verbose):
            import tensorflow  # noqa: F401
    with waiting("measuring this machine") if device == "here" else contextlib.nullcontext():
        found = plan(recipe, *size, gpus, hosts, DEVICES.get(device))
    if json:
        print_json(found.facts())
    else:
        tables.print_plan(recipe, device, gpus, hosts, found)


def recipes(*, json: Flag = False) -> None:
    """List the recipes: data, model, epochs, expected accuracy.

    `convmixer train RECIPE --help` shows where a recipe comes from, what it costs, and every field as an option.

    For example: convmixer recipes

    Args:
        json: print one JSON object with every field instead of a table.
    """
    if json:
        print_json({name: dataclasses.asdict(recipe) for name, recipe in RECIPES.items()})
    else:
        tables.print_recipes(RECIPES, DESCRIPTIONS)


def with_recipe(words: list[str]) -> list[str]:
    """Return the words of a command line with what follows the options of `launch` as one, for `convmixer train`."""
    place = 1
    while words[0] == "launch" and place < len(words) and words[place].startswith("-"):
        place += 1 if "=" in words[place] or words[place] in ("-h", "--help", "--network") else 2
    return [*words[:place], shlex.join(words[place:])] if words[0] == "launch" and words[place:] else words
