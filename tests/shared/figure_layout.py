"""Check the layout of Matplotlib figures: no text overlaps another one or is cut off."""

from itertools import combinations

import matplotlib.text
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg


def drawn_texts(figure):
    """Draw a figure and return its visible texts with their boxes in pixels: titles, labels, ticks, legends."""
    found = []
    draw = matplotlib.text.Text.draw

    def record(text, renderer, *arguments):
        draw(text, renderer, *arguments)
        if text.get_visible() and text.get_text().strip():
            found.append((text.get_text(), text.get_window_extent(renderer)))

    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # as `savefig` does first: a constrained layout needs two drawings
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(matplotlib.text.Text, "draw", record)
        canvas.draw()
    return found


def assert_texts_have_room(figure, least=0.5):
    """Fail where two texts overlap by more than `least` pixels in both directions, or a text leaves the figure."""
    texts = drawn_texts(figure)
    for (one, box), (other, other_box) in combinations(texts, 2):
        width = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
        height = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
        assert min(width, height) <= least, f"{one!r} and {other!r} overlap by {width:.1f} x {height:.1f} pixels"
    whole = figure.bbox
    for text, box in texts:
        inside = box.x0 >= whole.x0 and box.y0 >= whole.y0 and box.x1 <= whole.x1 and box.y1 <= whole.y1
        assert inside, f"{text!r} is cut off: it spans {box}, and the figure {whole}"
