"""Import Keras on one of its backends, and check that a model or a piece of work fits it."""

from .install import install_command

try:
    import keras
except ImportError as error:
    raise ImportError(
        f"Keras needs a backend and could not load one ({error}): "
        f"{install_command('train')}, or set KERAS_BACKEND to jax or torch where that is installed"
    ) from error


def require_tensorflow(work: str) -> None:
    """Check that Keras runs on TensorFlow.

    Args:
        work: what needs it, as the subject of the error: "training".

    Raises:
        RuntimeError: Keras runs on another backend.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"{work} needs Keras on TensorFlow, and it runs on {keras.backend.backend()}: set KERAS_BACKEND=tensorflow "
            "in the environment before Keras is imported"
        )


def require_functional(model: keras.Model) -> None:
    """Check that a model is functional or Sequential and was built, so that the graph of its layers is known.

    Raises:
        ValueError: it is a subclass of keras.Model, or a Sequential model without an input shape.
    """
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise ValueError(
            f"{model.name} is not a functional or Sequential model, or was not built: build it as "
            "keras.Model(inputs, outputs), or give the Sequential model an Input"
        )
