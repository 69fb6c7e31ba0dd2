"""The `convmixer` command.

What a command needs is imported inside it, so that `predict` answers without TensorFlow.
"""

from keras_convmixer.commands.command_line import run_app
from keras_convmixer.commands.compression import compress, qat
from keras_convmixer.commands.export import benchmark, export, inspect, predict
from keras_convmixer.commands.models import convert, evaluate, variants, visualize
from keras_convmixer.commands.quickstart import quickstart
from keras_convmixer.commands.training import launch, plan, recipes, train, with_recipe

COMMANDS = (
    quickstart,
    train,
    launch,
    plan,
    recipes,
    evaluate,
    qat,
    compress,
    export,
    predict,
    inspect,
    benchmark,
    variants,
    convert,
    visualize,
)


def main() -> None:
    """Run the command line of this process."""
    run_app(COMMANDS, with_recipe)


if __name__ == "__main__":
    main()
