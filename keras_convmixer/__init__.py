"""ConvMixer ("Patches Are All You Need?", Trockman and Kolter, 2022) for Keras 3.

Names load on first use: `import keras_convmixer` alone imports neither Keras nor TensorFlow, so that
`convmixer predict` answers at once and runs where neither is installed.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "convmixer": ["ConvMixer", "features"],
        "deployment": ["deploy", "verify"],
        "imagenet": ["decode_predictions", "preprocess_input"],
        "images.preprocessing": ["Preprocessing"],
        "variants": ["VARIANTS", "Variant"],
        "variant_models": [
            "ConvMixer1536_20",
            "ConvMixer768_32",
            "ConvMixer1024_20",
            "ConvMixer1536_24",
            "ConvMixer1536_20_ks3_p7",
            "ConvMixer1536_20_ks9_p14",
            "ConvMixer1024_16",
            "ConvMixer1024_12",
            "ConvMixer512_16",
            "ConvMixer512_12",
            "ConvMixer768_32_ks3_p14",
            "ConvMixer256_8",
        ],
        "weights.loading": ["load_weights", "save_weights_torch"],
    },
)
