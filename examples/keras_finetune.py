"""Fine-tune a ConvMixer in plain Keras: compile, fit, save.

    python examples/keras_finetune.py photos --epochs 5

`photos` has a subfolder for each label, as photos/rose/1.jpg. The model starts from the published ImageNet weights, and
the file that is saved loads with Keras alone, without this package. To see it run on a CPU without a download:

    python examples/keras_finetune.py photos --variant ConvMixer256_8 --weights none
"""

import argparse
from pathlib import Path

import keras

import keras_convmixer as kc


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder with one subfolder of photos for each label")
    parser.add_argument("--variant", default="ConvMixer768_32", choices=kc.VARIANTS, help="which ConvMixer")
    parser.add_argument("--weights", default="imagenet", help="imagenet, a file of weights, or none")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the training photos")
    parser.add_argument("--out", type=Path, default=Path("finetuned.keras"), help="file to write")
    arguments = parser.parse_args()

    size = kc.VARIANTS[arguments.variant].image_size
    # Batches of float32 [batch, size, size, 3] in 0..255 and int32 [batch]; a fifth of the photos for validation.
    training, validation = keras.utils.image_dataset_from_directory(
        arguments.photos,
        image_size=(size, size),
        batch_size=16,
        crop_to_aspect_ratio=True,
        validation_split=0.2,
        subset="both",
        seed=0,
    )

    build = getattr(kc, arguments.variant)
    model = build(
        weights=None if arguments.weights == "none" else arguments.weights,
        include_preprocessing=True,  # takes pixels 0..255, as export needs it
        classes=len(training.class_names),  # the classifier for them is new
    )
    # Low, as the weights are good already. XLA is slow at depthwise convolutions on a CPU: no jit_compile.
    optimizer = keras.optimizers.AdamW(learning_rate=1e-4, weight_decay=1e-4)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    # Flips are for training only, so they stay outside of the model.
    flip = keras.layers.RandomFlip("horizontal")
    flipped = training.map(lambda images, labels: (flip(images, training=True), labels))
    # The data set shuffles its files itself; `fit` could not, and would warn.
    model.fit(flipped, validation_data=validation, epochs=arguments.epochs, shuffle=False)

    keras.Model(model.input, model.output).save(arguments.out)  # without the optimizer's state
    print(f"{arguments.out}: load it with keras.saving.load_model({str(arguments.out)!r})")
    print(f"Labels: {', '.join(training.class_names)}")


if __name__ == "__main__":
    main()
