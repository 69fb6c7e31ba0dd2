"""From a trained model to a bundle of verified artifacts. TensorFlow is imported only by what converts."""

import lazy_loader

from keras_convmixer.environment.one_copy import require_one_copy

require_one_copy(__name__, __file__)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
