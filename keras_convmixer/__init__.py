"""ConvMixer ("Patches Are All You Need?", Trockman and Kolter, 2022) for Keras 3.

Public names are listed in __init__.pyi, for editors and for the loader. Each loads on first use: `import
keras_convmixer` alone imports neither Keras nor TensorFlow, so that `convmixer predict` answers at once and runs where
neither is installed.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
