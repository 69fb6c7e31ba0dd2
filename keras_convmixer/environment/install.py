"""Say how this package is installed, for messages and bundles. No other file does."""

PUBLISHED = False
"""Whether the package is on the package index. Until then it is installed from a checkout of its repository."""


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
