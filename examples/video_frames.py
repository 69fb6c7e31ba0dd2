"""Say what a video shows, second by second, with an exported bundle; TensorFlow is not needed.

    python examples/video_frames.py bundle clip.gif

Reads animated GIF and WebP files by Pillow, and with OpenCV (pip install opencv-python-headless) also MP4 and others.
"""

import argparse
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from keras_convmixer.export import Classifier

BY_PILLOW = (".gif", ".webp", ".png")
BATCH = 32


def frames_of(path: Path, every: float) -> Iterator[tuple[float, np.ndarray]]:
    """Yield a frame every so many seconds: its time in seconds, and its pixels, RGB uint8 [height, width, 3]."""
    frames = _by_pillow(path) if path.suffix.lower() in BY_PILLOW else _by_opencv(path)
    next_time = 0.0
    for seconds, frame in frames:
        if seconds >= next_time:
            yield seconds, frame
            next_time += every


def _by_pillow(path):
    with Image.open(path) as animation:
        seconds = 0.0
        for frame in ImageSequence.Iterator(animation):
            yield seconds, np.asarray(frame.convert("RGB"))
            seconds += frame.info.get("duration", 100) / 1000  # milliseconds


def _by_opencv(path):
    import cv2

    video = cv2.VideoCapture(str(path))
    while True:
        seconds = video.get(cv2.CAP_PROP_POS_MSEC) / 1000
        is_frame, frame = video.read()
        if not is_frame:
            break
        yield seconds, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def main() -> None:
    """Print a line for each frame, and how often each label was the best."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="folder that convmixer export wrote")
    parser.add_argument("video", type=Path, help="animated GIF or WebP, or with OpenCV any video")
    parser.add_argument("--format", default="int8", help="which of the bundle's .tflite files")
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="time between two frames")
    arguments = parser.parse_args()

    classify = Classifier.load(arguments.bundle, arguments.format)
    labels = Counter()
    frames = frames_of(arguments.video, arguments.every)
    while batch := list(itertools.islice(frames, BATCH)):
        for (seconds, _), (best, *_) in zip(batch, classify.batch([frame for _, frame in batch]), strict=True):
            print(f"{seconds:8.1f} s  {best.label} ({best.probability:.0%})")
            labels[best.label] += 1
    print(", ".join(f"{label}: {count} frames" for label, count in labels.most_common()))


if __name__ == "__main__":
    main()
