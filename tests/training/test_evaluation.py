import keras
import numpy as np
import pytest

from keras_convmixer.training import Split, evaluate
from keras_convmixer.training.evaluation import Evaluation

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]], "float32")
LABELS = np.array([0, 2, 1, 1])


def test_accuracy_loss_and_classes_equal_kerass():
    evaluation = Evaluation(PROBABILITIES, LABELS)
    assert evaluation.accuracy == 0.75
    loss = keras.losses.SparseCategoricalCrossentropy()(LABELS, PROBABILITIES)
    assert evaluation.loss == pytest.approx(float(loss), rel=1e-5)
    first, second, third = evaluation.by_class(("a", "b", "c"))
    assert first == {"label": "a", "precision": 0.5, "recall": 1.0, "images": 1}
    assert second == {"label": "b", "precision": 1.0, "recall": 0.5, "images": 2}
    assert third["images"] == 1


def constant_model(outputs, shape=(4, 4, 3)):
    images = keras.Input(shape)
    pooled = keras.layers.GlobalAveragePooling2D()(images)
    dense = keras.layers.Dense(len(outputs))
    model = keras.Model(images, dense(pooled))
    dense.set_weights([np.zeros((shape[-1], len(outputs))), np.array(outputs)])
    return model


IMAGES = Split(np.zeros((5, 4, 4, 3), np.uint8), np.array([0, 1, 2, 1, 1]))


def test_logits_become_probabilities():
    evaluation = evaluate(constant_model([1.0, 3.0, -2.0]), IMAGES)
    np.testing.assert_allclose(evaluation.probabilities.sum(-1), 1, atol=1e-6)
    assert evaluation.accuracy == 3 / 5


def test_what_cannot_be_evaluated_is_named():
    with pytest.raises(ValueError, match="NaN"):
        evaluate(constant_model([0.0, np.nan, 0.0]), IMAGES)
    with pytest.raises(ValueError, match="2 classes, and the data 3"):
        evaluate(constant_model([0.0, 1.0]), IMAGES)
    with pytest.raises(ValueError, match=r"takes images of shape \(8, 8, 3\), and these have \(4, 4, 3\)"):
        evaluate(constant_model([0.0, 1.0, 2.0], shape=(8, 8, 3)), IMAGES)


def test_progress_counts_each_batchs_images(toy):
    counted = []
    evaluate(toy.model, Split(toy.test_images[:10], toy.test_labels[:10]), batch_size=4, batch_done=counted.append)
    assert counted == [4, 4, 2]
