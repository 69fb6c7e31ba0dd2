"""Which of Keras's backends the work needs."""


def require_tensorflow(work: str) -> None:
    """Check that Keras runs on TensorFlow; `work` is what needs it, as in "training".

    Raises:
        RuntimeError: Keras runs on another backend.
        ImportError: Keras finds no backend.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"{work} needs Keras on TensorFlow, and it runs on {keras.backend.backend()}: set KERAS_BACKEND=tensorflow"
        )
