"""One file a recipe: its docstring holds the command, the expected accuracy and the cost."""

from . import digits

RECIPES = {"digits": digits.RECIPE}
DESCRIPTIONS = {"digits": digits.__doc__}
