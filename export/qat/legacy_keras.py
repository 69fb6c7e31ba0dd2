"""tf_keras and tensorflow-model-optimization, which knows only that, beside Keras 3, which stays `tf.keras`."""

from __future__ import annotations

import os

import tensorflow as tf

from keras_convmixer.install import install_command

_SWITCH = "TF_USE_LEGACY_KERAS"
_before = os.environ.get(_SWITCH)
# tensorflow-model-optimization sets the switch; `tf.keras`, which is resolved on first use, would become tf_keras in
# this process and in those that it starts.
tf.keras.__name__  # noqa: B018
try:
    import tensorflow_model_optimization as tfmot
    import tf_keras
except ImportError as error:
    raise ImportError(
        f"training for 8 bits, pruning and clustering need {error.name}: {install_command('qat')}"
    ) from None
finally:
    os.environ.pop(_SWITCH, None)
    if _before is not None:
        os.environ[_SWITCH] = _before

__all__ = ["tf_keras", "tfmot"]
