"""One step on several replicas and workers is the step of one device."""

import json
import socket
from contextlib import ExitStack

import keras
import numpy as np
import pytest
import tensorflow as tf
from processes import Forked
from tensorflow.python.autograph.impl import api

from keras_convmixer.training import RECIPES
from keras_convmixer.training.data.batches import InputPipeline
from keras_convmixer.training.data.dataset import Split
from keras_convmixer.training.devices.strategy import choose_strategy
from keras_convmixer.training.step.model import build_model, build_training_model
from keras_convmixer.training.step.step import Step

STEPS = 20


def train(out, count):
    """Train on `count` devices, parts of this CPU, or as one of TF_CONFIG's workers; the chief saves the results."""
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * count
    )
    tf.config.set_soft_device_placement(True)
    recipe = RECIPES["digits"].replace(
        image_size=8,
        dim=8,
        depth=1,
        kernel_size=3,
        batch_size=48,
        gradient_accumulation_steps=2,
        ema_decay=0.9,
        clip_norm=0.2,
        learning_rate=0.05,
        mixup_alpha=0.5,
        cutmix_alpha=0.5,
        flip=True,
        rand_augment="timm",
        rand_augment_num_ops=1,
        erasing_probability=0.25,
    )
    random = np.random.default_rng(0)
    split = Split(random.integers(0, 256, (200, 8, 8, 3)).astype("uint8"), random.integers(0, 10, 200))
    replicas = choose_strategy("auto" if count == 1 else "mirrored")
    keras.utils.set_random_seed(0)
    with replicas.strategy.scope():
        model = build_training_model(build_model(recipe.model, 10), replicas.num_replicas)
    chiefs = replicas.broadcast_from_chief(np.full((2, 3), 0.1 + replicas.worker, "float32"))
    np.testing.assert_array_equal(chiefs, np.full((2, 3), 0.1, "float32"))
    replicas.require_same("all", "a wrong alarm")
    if replicas.workers > 1:
        with pytest.raises(ValueError, match="different"):
            replicas.require_same(19 * (1 + replicas.worker), "different")  # the middle one of three is their mean
    step = Step(model, recipe.optimization, replicas, STEPS)
    batches = InputPipeline(split, 10, recipe.augmentation, 48, recipe.seed, 2).batches(replicas, 0, STEPS)
    step.run_several(batches, tf.constant(5))
    results = [[float(value) for value in step.run(next(batches))] for _ in range(STEPS - 5)]
    assert step.number == STEPS
    if replicas.is_chief:
        arrays = [keras.ops.convert_to_numpy(v) for v in model.variables] + step.weights()
        np.savez(out / f"{replicas.name}_{replicas.num_replicas}", *arrays, results=np.array(results))


def run(out, count, workers=1):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(workers)]
        for one in sockets:
            one.bind(("localhost", 0))
        addresses = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    processes = []
    for worker in range(workers):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": worker}}
        environment = {"TF_CONFIG": json.dumps(config)} if workers > 1 else {}
        processes.append(Forked(out, count, function=train, environment=environment))
    ended = [process.finished(seconds=300) for process in processes]
    assert all(process.returncode == 0 for process in ended), "\n".join(process.stderr[-2000:] for process in ended)


def assert_equal(one, other, tolerance=1e-4):
    one, other = np.load(one), np.load(other)
    assert one.files == other.files
    for name in one.files:
        np.testing.assert_allclose(other[name], one[name], atol=tolerance, rtol=tolerance, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "workers", "name"),
    [(3, 1, "mirrored_3"), (1, 2, "multi_worker_2"), (1, 3, "multi_worker_3")],
)
def test_replicas_and_workers_train_what_one_device_trains(once, tmp_path, count, workers, name):
    one_device = once("trained_on_one_device", lambda folder: run(folder, 1))
    run(tmp_path, count, workers)
    assert_equal(one_device / "one_device_1.npz", tmp_path / f"{name}.npz")


def _step(**changes):
    recipe = RECIPES["digits"].replace(image_size=8, dim=8, depth=1, kernel_size=3, batch_size=16, **changes)
    keras.utils.set_random_seed(0)
    precision = "float32" if recipe.optimization.precision == "auto" else recipe.optimization.precision
    model = build_training_model(build_model(recipe.model, 10), 1, precision)
    return Step(model, recipe.optimization, choose_strategy("one_device"), STEPS)


def _batch(seed=0):
    random = np.random.default_rng(seed)
    images = random.uniform(0, 255, (16, 8, 8, 3)).astype("float32")
    return images, np.eye(10, dtype="float32")[random.integers(0, 10, 16)]


@pytest.mark.slow
def test_it_is_kerass_own_step():
    step = _step(learning_rate=0.03, clip_norm=0.5)
    images, labels = _batch()
    keras.utils.set_random_seed(0)
    model = build_model(RECIPES["digits"].replace(image_size=8, dim=8, depth=1, kernel_size=3).model, 10)
    optimizer = keras.optimizers.AdamW(step._schedule, weight_decay=0.05, epsilon=1e-3, global_clipnorm=0.5)
    optimizer.exclude_from_weight_decay(var_list=[v for v in model.trainable_variables if len(v.shape) == 1])
    model.compile(optimizer, "categorical_crossentropy", jit_compile=False)
    for _ in range(5):
        expected = model.train_on_batch(images, labels)
        found = float(step.run((images, labels)).loss)
        assert found == pytest.approx(float(np.asarray(expected)), rel=1e-3)
    for one, other in zip(model.variables, step.model.variables, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_autograph_rewrites_the_loop_over_steps_alone(monkeypatch):
    """To rewrite Keras's functions as well, which it traces as they are, took seconds before the first step."""
    rewritten, convert = [], api._convert_actual
    monkeypatch.setattr(api, "_convert_actual", lambda f, context: rewritten.append(f) or convert(f, context))
    step, augmentation = _step(), RECIPES["digits"].augmentation
    split = Split(np.zeros((32, 8, 8, 3), "uint8"), np.zeros(32, int))
    batches = InputPipeline(split, 10, augmentation, 16, 0).batches(choose_strategy("one_device"), 0, 1)
    step.run_several(batches, tf.constant(1))
    assert {f.__name__ for f in rewritten} == {"_run_several"}


def test_the_average_is_tensorflows():
    step = _step(ema_decay=0.3)  # of the first four steps three at a lower one
    copies = [tf.Variable(variable.numpy()) for variable in step.model.variables]
    done = tf.Variable(0)
    expected = tf.train.ExponentialMovingAverage(0.3, num_updates=done)
    expected.apply(copies)
    for copy in copies:
        expected.average(copy).assign(copy)
    for seed in range(4):
        step.run(_batch(seed))
        for copy, variable in zip(copies, step.model.variables, strict=True):
            copy.assign(variable.numpy())
        expected.apply(copies)
        done.assign_add(1)
    for copy, found in zip(copies, step.weights(), strict=True):
        np.testing.assert_allclose(found, expected.average(copy), atol=1e-6)


def test_without_decay_biases_stay_and_with_it_they_shrink():
    for everything in (False, True):
        step = _step(learning_rate=1.0, weight_decay=0.1, decay_norm_and_bias=everything, clip_norm=1e-12)
        step.optimizer.iterations.assign(8)  # the schedule's peak
        before = [np.asarray(v).copy() for v in step.model.trainable_variables]
        step.run(_batch())
        for old, new in zip(before, step.model.trainable_variables, strict=True):
            shrunk = everything or old.ndim > 1
            np.testing.assert_allclose(new, old * (0.9 if shrunk else 1), atol=1e-4)


def test_float16_leaves_out_a_step_that_overflows_and_goes_on():
    step = _step(precision="mixed_float16")
    images, labels = _batch()
    scale = float(step.optimizer.dynamic_scale)
    before = [np.asarray(v).copy() for v in step.model.trainable_variables]
    step.optimizer.dynamic_scale.assign(1e30)
    step.run((images, labels))
    for old, new in zip(before, step.model.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new)
    assert float(step.optimizer.dynamic_scale) < 1e30
    assert step.number == 1  # whose images were used up all the same
    step.optimizer.dynamic_scale.assign(scale)
    losses = [float(step.run((images, labels)).loss) for _ in range(10)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_bfloat16_trains_and_keeps_float32_weights():
    step = _step(precision="mixed_bfloat16")
    losses = [float(step.run(_batch()).loss) for _ in range(10)]
    assert losses[-1] < losses[0]
    assert {str(v.dtype) for v in step.model.variables} == {"float32"}
