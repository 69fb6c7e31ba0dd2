"""Say how this package is installed, for messages and bundles. No other file does."""

PUBLISHED = False
"""Whether the package is on the package index. Until then it is installed from a checkout of its repository."""
_EXTRAS = {
    "train": ("tensorflow", "tensorflow_datasets", "tensorboard", "codecarbon", "sklearn", "matplotlib"),
    "predict": ("ai_edge_litert", "jsonschema"),
    "export": ("litert_quantizer", "jinja2", "tensorflow_serving"),
    "qat": ("tensorflow_model_optimization", "tf_keras"),
}
"""The packages that each extra of setup.cfg installs, by the names with which they are imported."""


def install_command(*extras: str) -> str:
    """Return how to install this package with `extras` of setup.cfg, for a sentence.

    Example:
        ```python
        from keras_convmixer.environment.install import install_command

        assert "[export]" in install_command("export")
        ```
    """
    if PUBLISHED:
        return f"pip install 'keras-convmixer[{','.join(extras)}]'"
    return f"pip install '.[{','.join(extras)}]' in keras_convmixer's repository"


def missing(module: str) -> str:
    """Return what to say where a module cannot be imported: the package's name, and the extra that installs it.

    Those of `train` are named with `export`, as a trained model is exported next.

    Example:
        ```python
        from keras_convmixer.environment.install import missing

        assert missing("tf_keras.layers").startswith("tf_keras is not installed: pip install ")
        ```
    """
    package = module.partition(".")[0]
    extra = next((extra for extra, packages in _EXTRAS.items() if package in packages), None)
    if extra is None:
        return f"{package} is not installed"
    return f"{package} is not installed: {install_command(*(('train', 'export') if extra == 'train' else (extra,)))}"
