"""A folder of pictures of your own, from published weights.

- Command: convmixer train finetune --dataset FOLDER
- Accuracy: depends on the pictures
- Cost: 20 epochs of the folder's pictures at 12 GFLOPs forward each
- Data: a folder with one subfolder of pictures for each label, or with these in train, val and test
- Source: sizes and weights of the published ConvMixer-1024/20; learning rate and decay chosen here, low, as the
  weights are good already; the augmentation is a light form of the ImageNet recipes'
"""

from ..recipe import Recipe

RECIPE = Recipe(
    name="finetune",
    dataset="FOLDER",
    image_size=224,
    dim=1024,
    depth=20,
    kernel_size=9,
    patch_size=14,
    weights="imagenet",
    epochs=20,
    batch_size=32,
    learning_rate=1e-4,
    schedule="cosine",
    weight_decay=1e-4,
    label_smoothing=0.1,
    crop_scale=0.35,
    crop_ratio=4 / 3,
    flip=True,
    color_jitter=0.2,
    ema_decay=0.99,
    crop_fraction=0.96,
)
