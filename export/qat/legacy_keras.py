"""Import tf_keras and tensorflow-model-optimization (tfmot) into a process whose Keras is Keras 3.

tfmot knows Keras 2 alone, which lives on as the package tf_keras. Both can be imported into one process, and share one
thing: the name `tf.keras`. TensorFlow resolves it on first use, to Keras 3 or, where the environment variable
TF_USE_LEGACY_KERAS is set, to tf_keras. Importing tfmot sets that variable. So `tf.keras` is resolved here before, and
the variable is restored afterwards, also for the processes that this one starts.

Import tf_keras and tfmot from here only, and before any module of tfmot.
"""

from __future__ import annotations

import os

import tensorflow as tf

from keras_convmixer.environment.install import install_command

_SWITCH = "TF_USE_LEGACY_KERAS"
_before = os.environ.get(_SWITCH)
tf.keras.__name__  # noqa: B018 - resolves it
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
