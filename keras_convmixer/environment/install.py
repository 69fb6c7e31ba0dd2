"""The one place that says how this package is installed, in messages and in bundles."""

PUBLISHED = False
"""Whether the package index has this package; until then it is installed from a checkout of its repository."""


def install_command(*extras: str) -> str:
    """Return the words that tell how to install this package with `extras` of setup.cfg.

    Example:
        ```python
        from keras_convmixer.environment.install import install_command

        assert "[export]" in install_command("export")
        ```
    """
    if PUBLISHED:
        return f"pip install 'keras-convmixer[{','.join(extras)}]'"
    return f"pip install '.[{','.join(extras)}]' in keras_convmixer's repository"
