"""ImageNet: ConvMixer-768/32, the deepest published.

- Command: convmixer train imagenet_768_32 --data-dir FOLDER
- Accuracy: 80.16 % of the 50,000 validation images in 300 epochs, reported by the reference; not measured here
- Cost: 0.8 times that of imagenet_1536_20: 0.4 times the operations, twice the epochs
- Data: as imagenet_1536_20
- Source: as imagenet_1536_20, with ReLU, whose weights are the published ones
"""

from . import imagenet_1536_20

RECIPE = imagenet_1536_20.RECIPE.replace(
    name="imagenet_768_32", dim=768, depth=32, kernel_size=7, activation="relu", epochs=300
)
