import pytest

from keras_convmixer.training.runs import figures


@pytest.fixture
def no_figures(monkeypatch):
    """Leave out the figures that a run ends with: they take as long as the steps of a short one."""
    for name in ("draw_curves", "draw_confusion", "draw_predictions"):
        monkeypatch.setattr(figures, name, lambda *arguments: None)
