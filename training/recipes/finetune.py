"""Your own photos, by fine-tuning published weights.

- Command: convmixer train finetune --dataset FOLDER
- Accuracy: depends on the images
- Cost: 20 epochs of the folder's images at 12 GFLOPs forward each
- Data: a folder with one subfolder of images for each label, or with such folders in train, val and test
- Source: sizes and weights of the published ConvMixer-1024/20; learning rate and weight decay
  are chosen here, low, as the weights are good already; the augmentation is a light form of the ImageNet recipes'
"""

from ..recipe import AugmentationConfig, DataConfig, ModelConfig, OptimizationConfig, Recipe

RECIPE = Recipe(
    name="finetune",
    model=ModelConfig(image_size=224, dim=1024, depth=20, kernel_size=9, patch_size=14, weights="imagenet"),
    data=DataConfig(dataset="FOLDER", crop_fraction=0.96),
    augmentation=AugmentationConfig(
        crop_scale=0.35,
        crop_ratio=4 / 3,
        flip=True,
        color_jitter=0.2,
        label_smoothing=0.1,
    ),
    optimization=OptimizationConfig(
        epochs=20,
        batch_size=32,
        learning_rate=1e-4,
        schedule="cosine",
        weight_decay=1e-4,
        ema_decay=0.99,
    ),
)
