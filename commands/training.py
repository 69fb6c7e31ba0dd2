"""Commands that train, and that say what there is to train and what it costs."""

import difflib
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from keras_convmixer.console import print_json
from keras_convmixer.training.recipes import DESCRIPTIONS, RECIPES

from . import tables
from .command_line import UsageError, argument, starting_tensorflow

RecipeArgument = Annotated[tyro.extras.subcommand_type_from_defaults(RECIPES, DESCRIPTIONS), tyro.conf.arg(name="")]


def train(
    recipe: RecipeArgument,
    *,
    runs: argument(Path, "FOLDER") = Path("runs"),
    overwrite: bool = False,
    strategy: Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"] = "auto",
    checkpoint_minutes: float = 10.0,
    steps_per_call: argument(int | None, "INT", "20 on GPUs and TPUs, 1 on CPUs") = None,
    rollbacks: int = 0,
    look_up_country: bool = False,
    verbose: bool = False,
) -> None:
    """Train a model by a recipe and write its run folder: model, metrics, pictures. Stopped, it goes on where it was.

    For example: convmixer train digits --epochs 10 --name short

    Args:
        recipe: what to train; its fields are options.
        runs: where the run's folder NAME is made.
        overwrite: train again although that folder holds a trained model, or what another recipe began; what this one
            began goes on even so, until the folder is removed.
        strategy: devices to train on; auto takes all GPUs of this machine, or of the cluster that TF_CONFIG or Slurm
            describe.
        checkpoint_minutes: time between checkpoints; each epoch's end is one too.
        steps_per_call: steps that TensorFlow runs in one go.
        rollbacks: how many times a run that diverges goes back to a checkpoint and on at half the learning rate; it
            stops where none are left.
        look_up_country: ask geojs.io or ipinfo.io where this machine is, to count CO2 by that country's electricity;
            else CODECARBON_COUNTRY_ISO_CODE=FRA names the country, or it is the world's average.
        verbose: show tracebacks and TensorFlow's own log.
    """
    with starting_tensorflow(verbose):
        from keras_convmixer.training import train

    run = runs / recipe.name
    summary = train(
        recipe,
        run,
        overwrite,
        strategy,
        checkpoint_minutes,
        steps_per_call,
        rollbacks,
        look_up_country=look_up_country,
    )
    if summary:  # the chief's
        tables.print_training(run, summary)


def launch(
    arguments: tyro.conf.Positional[argument(str, "RECIPE ...")],
    *,
    workers: int = 2,
    restarts: int = 10,
    startup_seconds: float = 1800.0,
    stall_seconds: float = 600.0,
    network: bool = False,
) -> None:
    """Train with several workers on this machine, without GPUs; when one dies or stalls, all begin again where it was.

    For example: convmixer launch --workers 2 digits --epochs 10

    Args:
        arguments: what `convmixer train` takes; after the options of launch.
        workers: processes that train together, each on its share of every batch.
        restarts: how many times all workers are started again.
        startup_seconds: within which every worker must have loaded its data and done a step.
        stall_seconds: a worker that does no step for so long, evaluation included, counts as stalled.
        network: leave the workers in this machine's network, where others reach them without a password, for data that
            is on other machines; what names an address, as gs://, and published weights need no such word.
    """
    from keras_convmixer.training.launch import Launch

    if workers < 1:
        raise UsageError(f"--workers {workers}: give 1 or more")
    words = ["train", *shlex.split(arguments)]
    sys.exit(Launch(words, workers, restarts, startup_seconds, stall_seconds, network).run())


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
    for option, value in (("--images", images), ("--classes", classes)):
        if value is not None and value < (2 if option == "--classes" else recipe.batch_size):
            least = "2 or more" if option == "--classes" else f"the batch's {recipe.batch_size} or more"
            raise UsageError(f"{option} {value}: give {least}")
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


def with_recipe(words: list[str]) -> list[str]:
    """Return the words of a command line with what follows `launch RECIPE` as one, which is for `convmixer train`.

    Raises UsageError: where a recipe's name is due, there is another word.
    """
    if words[:1] == ["launch"]:
        first = next((place for place, word in enumerate(words) if word in RECIPES), None)
        if first is not None:
            return [*words[:first], shlex.join(words[first:])]
    elif words[:1] in (["train"], ["plan"]) and words[1:] and not words[1].startswith("-") and words[1] not in RECIPES:
        near = difflib.get_close_matches(words[1], RECIPES, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"there is no recipe {words[1]}: {meant}There are {', '.join(RECIPES)}")
    return words
