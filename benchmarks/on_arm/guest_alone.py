"""On the emulated processor: `guest_alone.py FILE...` runs .tflite files on noise, and marks one inference of each."""

import os
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main() -> None:
    """Run each file twice and mark the second run, as guest.py does."""
    random = np.random.default_rng(0)
    for path in sys.argv[1:]:
        interpreter = Interpreter(path, num_threads=1)
        interpreter.allocate_tensors()
        for tensor in interpreter.get_input_details():
            values = random.normal(size=tensor["shape"]) * (1 if tensor["dtype"] == np.float32 else 30)
            interpreter.set_tensor(tensor["index"], values.astype(tensor["dtype"]))
        interpreter.invoke()
        os.getppid()
        interpreter.invoke()
        os.getppid()


if __name__ == "__main__":
    main()
