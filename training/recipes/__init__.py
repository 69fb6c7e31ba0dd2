"""One file a recipe: its docstring holds the command, the expected accuracy and the cost."""

from . import digits

_MODULES = (digits,)

RECIPES = {module.RECIPE.name: module.RECIPE for module in _MODULES}
DESCRIPTIONS = {module.RECIPE.name: module.__doc__ for module in _MODULES}
