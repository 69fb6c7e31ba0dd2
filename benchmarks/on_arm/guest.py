"""On the emulated processor: `guest.py ENGINE FILE IMAGES.npy LOGITS.npy` runs a file, and marks one inference.

getppid() makes QEMU's plugin print how many instructions have run.
"""

import os
import sys

import numpy as np
from run_engine import ENGINES


def main() -> None:
    """Write the logits of all images, then mark another inference: the first one sets buffers up."""
    engine, path, images, out = sys.argv[1:]
    prepare, run, logits = ENGINES[engine](path, 1)
    images = np.load(images).astype("float32")
    np.save(out, np.concatenate([logits(one[None]) for one in images]))
    image = prepare(images[:1])
    os.getppid()
    run(image)
    os.getppid()


if __name__ == "__main__":
    main()
