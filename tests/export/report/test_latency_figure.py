import pytest
from figure_layout import assert_texts_have_room, drawn_texts
from matplotlib import pyplot
from PIL import Image

from keras_convmixer.export import Timing, draw_benchmark
from keras_convmixer.export.report import latency_figure

COMMON = {"size": 10_000, "cold_start": 1.0, "peak_memory": 1, "images": 9}


def test_the_longest_bar_is_that_of_the_slowest_file(toy_bundle, tmp_path):
    slow = [Timing(name, 1, median=m, p90=m, **COMMON) for name, m in (("float32", 8.0), ("int8", 1.0))]
    other = [Timing(name, 1, median=m, p90=m, **COMMON) for name, m in (("float32", 1.0), ("int8", 8.0))]
    dark = []
    for number, timings in enumerate((slow, other)):
        draw_benchmark(toy_bundle, timings, tmp_path / f"{number}.png")
        image = Image.open(tmp_path / f"{number}.png").convert("L")
        width, height = image.size
        columns = range(int(0.55 * width), int(0.95 * width))
        grey = [sum(80 < image.getpixel((x, y)) < 100 for x in columns) for y in range(height)]
        dark.append(sum(y * count for y, count in enumerate(grey)) / max(sum(grey), 1))
    assert dark[0] < 0.8 * dark[1]


@pytest.mark.parametrize("threads", [(1,), (1, 2, 4, 8, 16)])
def test_texts_do_not_overlap_and_have_units(toy_bundle, threads, monkeypatch):
    figures = []
    monkeypatch.setattr(latency_figure, "save_png", lambda figure, path: figures.append(figure))
    monkeypatch.setattr(pyplot, "close", lambda figure: None)
    names = ("float32", "float16", "dynamic", "int8")
    timings = [Timing(n, t, median=8.0 / t, p90=9.0 / t, **COMMON) for n in names for t in threads]
    draw_benchmark(toy_bundle, timings, "unwritten.png")
    assert_texts_have_room(figures[0])
    texts = [text for text, _ in drawn_texts(figures[0])]
    assert "latency of one image, ms (bars: median)" in texts
    assert {"1 thread", "90th percentile"} <= set(texts)
    assert "int8\n10 kB, accuracy 100.0%" in texts
