"""The command line, on top of the library, training and export: the one place that knows all three."""

from keras_convmixer.one_copy import require_one_copy

require_one_copy(__name__, __file__)
