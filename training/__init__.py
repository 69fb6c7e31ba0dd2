"""Training: from images to a trained model. TensorFlow is imported when a name that needs it is first used."""

import lazy_loader

from keras_convmixer.environment.one_copy import require_one_copy

require_one_copy(__name__, __file__)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
