"""How far `convmixer plan` is off here: a measured step of some sizes beside the planned one.

`python benchmarks/plan.py`, on a machine that does nothing else.
"""

from keras_convmixer.environment.console import print_table
from keras_convmixer.training import RECIPES
from keras_convmixer.training.plan import measured_step, plan

SIZES = ((64, 4, 5, 2), (128, 8, 5, 2), (256, 8, 5, 2), (128, 4, 9, 1), (256, 4, 7, 2))
"""Channels, layers, kernel size, patch size."""
BATCH = 64


def main() -> None:
    """Measure and print."""
    rows = []
    for dim, depth, kernel_size, patch_size in SIZES:
        sizes = {"dim": dim, "depth": depth, "kernel_size": kernel_size, "patch_size": patch_size}
        recipe = RECIPES["cifar10"].replace(batch_size=BATCH, **sizes)
        planned = sum(plan(recipe, 49_000, 10).step_seconds.values())
        found = measured_step(recipe, 10, BATCH)
        name = f"{dim}/{depth}, {kernel_size}x{kernel_size} kernels, patches of {patch_size}"
        rows.append((name, f"{planned:.3f}", f"{found:.3f}", f"{planned / found:.2f}"))
    print_table(f"A step of {BATCH} images", ("model", "planned s", "measured s", "ratio"), rows)


if __name__ == "__main__":
    main()
