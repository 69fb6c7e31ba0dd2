"""One file a recipe: its docstring holds the command, the expected accuracy and the cost."""

from . import cifar10, cifar10_100, cifar10_p1_k9, digits, finetune, imagenet_768_32, imagenet_1024_20, imagenet_1536_20

_MODULES = (
    *(digits, cifar10, cifar10_100, cifar10_p1_k9),
    *(imagenet_1536_20, imagenet_768_32, imagenet_1024_20, finetune),
)

RECIPES = {module.RECIPE.name: module.RECIPE for module in _MODULES}
DESCRIPTIONS = {module.RECIPE.name: module.__doc__ for module in _MODULES}
