"""Count what each operator of .tflite files costs on an emulated processor, each in a file of its own.

`make arm` once, then `python benchmarks/on_arm/operators.py FILE...`, for example on files of benchmarks/arm.py, which
lie in build/arm_files.
"""

import sys
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import tyro

sys.path.append(str(Path(__file__).parents[1]))

from on_arm.emulator import PROCESSORS, count_alone
from on_litert.operators_alone import operators_alone

from keras_convmixer.environment.console import print_table, silence_native_logs


def main(
    files: Annotated[tuple[Path, ...], tyro.conf.Positional], processor: str = next(iter(PROCESSORS)), rows: int = 20
) -> None:
    """Print a table for each file, the dearest operators first.

    Args:
        files: .tflite files.
        processor: a name in emulator.py's PROCESSORS.
        rows: rows of a table at most.
    """
    silence_native_logs()
    for path in files:
        found = operators_alone(path.read_bytes())
        counts, instructions = defaultdict(int), defaultdict(int)
        for (operator, shape, count, _), each in zip(
            found, count_alone(processor, [f[-1] for f in found]), strict=True
        ):
            counts[operator, shape] += count
            instructions[operator, shape] += count * each
        title = f"{path} on {processor}: {sum(instructions.values()) / 1e6:,.1f} million instructions"
        table = [
            (*key, str(counts[key]), f"{instructions[key] / 1e6:,.2f}")
            for key in sorted(instructions, key=lambda key: -instructions[key])
        ]
        print_table(title, ("operator", "input, weights, output", "count", "millions"), table[:rows])


if __name__ == "__main__":
    tyro.cli(main)
