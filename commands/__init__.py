"""The command line, on top of the library, training and export: the one place that knows all three."""

from keras_convmixer.environment.one_copy import require_one_copy

require_one_copy(__name__, __file__)
