import csv
import dataclasses
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from processes import run_forked

from keras_convmixer import Preprocessing
from keras_convmixer.outputs.classifier import NotFinite
from keras_convmixer.training import RECIPES, Diverged, Run, load_dataset, load_run, train
from keras_convmixer.training import trainer as loop
from keras_convmixer.training.data.batches import InputPipeline

SHORT = RECIPES["digits"].replace(name="short", image_size=8, patch_size=2, dim=16, depth=1, epochs=3)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def short(once):
    """A run's folder, and the summary that `train` returned; tests leave the folder as it is."""

    def fill(folder):
        summary = train(SHORT, folder / "short", verbose=False)
        (folder / "returned.json").write_text(json.dumps(summary))

    folder = once("short_run", fill)
    return folder / "short", json.loads((folder / "returned.json").read_text())


def test_the_folder_holds_what_the_docstring_says(short):
    folder, summary = short
    assert {path.name for path in folder.iterdir()} == {
        *("recipe.json", "labels.txt", "model.keras", "best.keras", "metrics.csv", "summary.json"),
        *("curves.png", "confusion.png", "predictions.png", "checkpoints", "tensorboard"),
    }
    assert json.loads((folder / "recipe.json").read_text()) == dataclasses.asdict(SHORT)
    assert json.loads((folder / "summary.json").read_text()) == summary
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert float(rows[-1]["val_accuracy"]) == pytest.approx(summary["validation_accuracy"])
    assert float(rows[0]["loss"]) > float(rows[-1]["loss"])
    for name in ("curves", "confusion", "predictions"):
        image = np.asarray(Image.open(folder / f"{name}.png").convert("L"))
        assert min(image.shape) > 300
        assert image.std() > 10  # something is drawn


def test_the_summary_is_what_the_saved_model_does(short):
    folder, summary = short
    loaded = load_run(folder)
    assert loaded.recipe == SHORT
    assert loaded.class_names == tuple("0123456789")
    assert loaded.preprocessing.height == loaded.preprocessing.width == 8
    test = load_dataset("digits", loaded.preprocessing).test
    predicted = np.argmax(loaded.model(test.images.astype("float32"), training=False), -1)
    assert summary["test_accuracy"] == np.mean(predicted == test.labels)
    assert summary["test_accuracy"] > 0.5
    assert summary["test_images"] == 360
    assert summary["kilowatt_hours"] > 0
    assert 0 <= summary["input_share"] < 1
    parts = summary["step_seconds"]
    assert parts["input"] / sum(parts.values()) == pytest.approx(summary["input_share"])
    assert sum(parts.values()) * 3 * 19 == pytest.approx(summary["seconds"], rel=0.3)
    assert summary["evaluation_seconds"] > 0
    assert 100e6 < summary["peak_memory_bytes"]["host"] < 24e9
    assert summary["parameters"] == loaded.model.count_params()
    assert load_run(folder / "model.keras").recipe == SHORT


def test_the_model_loads_and_predicts_the_same_without_this_package(short, tmp_path):
    folder, _ = short
    images = load_dataset("digits", load_run(folder).preprocessing).test.images
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, keras, numpy\n"
        "model = keras.saving.load_model(sys.argv[1])\n"
        "numpy.save(sys.argv[3], model(numpy.load(sys.argv[2]).astype('float32'), training=False).numpy())"
    )
    files = (folder / "model.keras", tmp_path / "images.npy", tmp_path / "probabilities.npy")
    process = run_forked(code, *files, blocked=("keras_convmixer",))
    assert process.returncode == 0, process.stderr
    ours = load_run(folder).model(images.astype("float32"), training=False)
    np.testing.assert_allclose(np.load(tmp_path / "probabilities.npy"), ours, atol=1e-6)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.slow
def test_a_seed_gives_the_same_model_again(short, tmp_path):
    folder, _ = short
    train(SHORT, tmp_path / "again", verbose=False)
    first, again = load_run(folder).model, load_run(tmp_path / "again").model
    for one, other in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    train(SHORT.replace(seed=1, epochs=1), tmp_path / "again", overwrite=True, verbose=False)
    assert np.abs(first.get_weights()[0] - load_run(tmp_path / "again").model.get_weights()[0]).max() > 0.01


def test_a_trained_model_is_not_overwritten(short, tmp_path):
    folder = shutil.copytree(short[0], tmp_path / "run")
    before = (folder / "model.keras").read_bytes()
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        train(SHORT, folder, verbose=False)
    assert (folder / "model.keras").read_bytes() == before


def test_a_diverging_run_stops_and_leaves_what_was_there(short, tmp_path):
    folder = shutil.copytree(short[0], tmp_path / "run")
    before = files(folder)
    with pytest.raises(FloatingPointError, match=r"loss became nan at step \d+, at a learning rate of .*: lower l"):
        train(SHORT.replace(learning_rate=1e30), folder, overwrite=True, verbose=False)
    assert files(folder) == before


@pytest.mark.usefixtures("no_figures")
@pytest.mark.slow
def test_a_validation_loss_that_is_no_number_goes_back_too(tmp_path, monkeypatch, capfd):
    """As of a run that diverges in the last step of an epoch."""
    evaluate, first = loop.evaluate, []

    def failing(model, split):
        if not first:
            first.append(True)
            raise NotFinite
        return evaluate(model, split)

    monkeypatch.setattr(loop, "evaluate", failing)
    with pytest.raises(Diverged, match=r"the validation loss became nan at step 19, .*lower learning_rate"):
        train(SHORT, tmp_path / "stops", verbose=False)
    first.clear()
    assert train(SHORT, tmp_path / "goes_back", rollbacks=1)["rollbacks"] == 1
    assert "going back to step 0, continuing at half the learning rate" in capfd.readouterr().err


@pytest.mark.slow
def test_a_run_whose_loss_grows_stops_each_time(tmp_path):
    recipe = SHORT.replace(learning_rate=30.0, clip_norm=1e9, epsilon=1e-8, schedule="cosine")
    for _ in range(2):  # the second time from the first one's checkpoint
        with pytest.raises(FloatingPointError, match=r"(the loss grew from|became nan)"):
            train(recipe, tmp_path / "run", checkpoint_minutes=0, verbose=False)
    assert not (tmp_path / "run/model.keras").exists()


@pytest.mark.usefixtures("no_figures")
@pytest.mark.slow
def test_a_diverging_run_rolls_back_if_asked(tmp_path, capfd):
    recipe = SHORT.replace(learning_rate=30.0, clip_norm=1e9, epsilon=1e-8, schedule="cosine")
    with pytest.raises(FloatingPointError):
        train(recipe, tmp_path / "run", rollbacks=1, verbose=False)
    summary = train(recipe, tmp_path / "run", rollbacks=20)  # goes on with what the first left
    assert 1 < summary["rollbacks"] <= 20
    errors = capfd.readouterr().err
    assert errors.count("going back to step") == summary["rollbacks"] - 1
    rates = [float(line.split(",")[2]) for line in (tmp_path / "run/metrics.csv").read_text().splitlines()[1:]]
    assert rates[0] <= 30 / 2 ** summary["rollbacks"]


@pytest.mark.parametrize("change", [{"steps_per_call": 0}, {"rollbacks": -1}, {"checkpoint_minutes": -1}])
def test_numbers_out_of_range_are_named(tmp_path, change):
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"{name}={value}: give"):
        train(SHORT, tmp_path / "run", verbose=False, **change)


def test_another_backend_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="training needs Keras on TensorFlow, and it runs on jax: set KERAS_BACKEND"):
        train(SHORT, tmp_path / "run", verbose=False)


def test_a_run_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="file is a file: name a folder"):
        train(SHORT, tmp_path / "file", verbose=False)


def test_a_recipe_is_followed(monkeypatch, tmp_path):
    seen = {}

    class RecordedStep(loop.Step):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            seen["step"] = self

    def batches(pipeline, replicas, start, stop):
        seen.update(vars(pipeline), steps=(start, stop))
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "Step", RecordedStep)
    monkeypatch.setattr(InputPipeline, "batches", batches)
    recipe = SHORT.replace(activation="relu", crop_fraction=0.5, batch_size=100, learning_rate=0.03)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", verbose=False)
    dataset = load_dataset("digits", Preprocessing(8, 8, crop_fraction=0.5))
    np.testing.assert_array_equal(seen["split"].images, dataset.train.images)
    np.testing.assert_array_equal(seen["split"].labels, dataset.train.labels)
    assert (seen["classes"], seen["batch_size"], seen["steps"]) == (10, 100, (0, 3 * 12))  # 1,257 // 100

    model, optimizer = seen["step"].model, seen["step"].optimizer
    activations = [layer for layer in model.layers if isinstance(layer, keras.layers.Activation)]
    assert {layer.activation.__name__ for layer in activations} == {"relu"}
    assert isinstance(optimizer, keras.optimizers.AdamW)
    assert (optimizer.epsilon, optimizer.weight_decay) == (1e-3, SHORT.optimization.weight_decay)
    schedule = optimizer._learning_rate
    assert (schedule.schedule.peak, schedule.schedule.steps) == (0.03, 3 * 12)
    decayed = {v.path for v in model.trainable_variables if optimizer._use_weight_decay(v)}
    assert decayed == {v.path for v in model.trainable_variables if v.path.endswith("kernel")}
    assert len(decayed) == 4  # stem, depthwise, pointwise, head
    assert not (tmp_path / "run/model.keras").exists()


def test_a_saved_recipes_crop_is_used_again(short, tmp_path):
    folder, _ = short
    shutil.copytree(folder, tmp_path / "run")
    recipe = json.loads((folder / "recipe.json").read_text())
    (tmp_path / "run/recipe.json").write_text(json.dumps({**recipe, "data": {**recipe["data"], "crop_fraction": 0.5}}))
    assert load_run(tmp_path / "run").preprocessing.crop_fraction == 0.5


@pytest.mark.usefixtures("no_figures")
@pytest.mark.slow
def test_overwriting_leaves_what_is_not_of_the_run(short, tmp_path):
    folder, _ = short
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run/bundle").mkdir()
    (tmp_path / "run/bundle/labels.txt").write_text("precious")
    before = (tmp_path / "run/model.keras").read_bytes()
    train(SHORT.replace(epochs=1), tmp_path / "run", overwrite=True, verbose=False)
    assert (tmp_path / "run/bundle/labels.txt").read_text() == "precious"
    assert (tmp_path / "run/model.keras").read_bytes() != before
    assert load_run(tmp_path / "run").recipe.optimization.epochs == 1
    assert not (tmp_path / "run/.partial").exists()


@pytest.mark.usefixtures("no_figures")
def test_a_full_disk_leaves_the_former_run(short, small_disk):
    folder, _ = short
    disk = small_disk("600k")
    shutil.copytree(folder, disk / "run")
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 40_000))
    before = files(disk / "run")
    with pytest.raises(OSError, match="no space is left on the device: free some"):
        train(SHORT.replace(epochs=1), disk / "run", overwrite=True, verbose=False)
    assert files(disk / "run") == before


def test_a_folder_is_found_again_from_anywhere(tmp_path, monkeypatch):
    for label, value in (("a $x_$ b", 40), ("[red] c", 200)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (12, 9), (value + index, value, value)).save(tmp_path / "data" / label / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="batch_size=64 is more than the 14 training images: give a smaller one"):
        train(SHORT.replace(dataset="data", epochs=1), Path("run"), verbose=False)
    train(SHORT.replace(dataset="data", epochs=1, batch_size=7), Path("run"), verbose=False)
    assert load_run(tmp_path / "run").recipe.data.dataset == str(tmp_path / "data")
    assert load_run(tmp_path / "run").class_names == ("[red] c", "a $x_$ b")
    assert (tmp_path / "run/confusion.png").exists()


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        load_run(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"holds no model\.keras"):
        load_run(tmp_path)
    (tmp_path / "model.keras").write_text("no zip")
    with pytest.raises(ValueError, match=r"is a text file, not a \.keras file"):
        load_run(tmp_path)


def test_a_recipe_that_this_version_does_not_know_is_named(short, tmp_path):
    folder, _ = short
    shutil.copy(folder / "model.keras", tmp_path)
    for content in ('{"name": "x"}', '{"strange": 1}', "[]", "{"):
        (tmp_path / "recipe.json").write_text(content)
        with pytest.raises(ValueError, match=r"recipe\.json is (not a recipe of this version|damaged)"):
            load_run(tmp_path)


def test_a_model_of_any_size_has_no_preprocessing(tmp_path):
    keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()]).save(tmp_path / "a.keras")
    loaded = load_run(tmp_path / "a.keras")
    assert loaded.recipe is loaded.class_names is None
    with pytest.raises(ValueError, match="of one size"):
        _ = loaded.preprocessing


def test_what_is_not_given_is_the_runs_own(tmp_path):
    recipe = RECIPES["digits"].replace(data_dir="tfds")
    run = Run(None, recipe, None)
    assert (run.data_or_own("photos"), run.data_dir_or_own("mine")) == ("photos", "mine")
    assert (run.data_or_own(None), run.data_dir_or_own("")) == ("digits", "tfds")
    moved = Run(None, recipe.replace(dataset=str(tmp_path / "moved")), None)
    with pytest.raises(FileNotFoundError, match=r"moved, which is not there: name other data"):
        moved.data_or_own(None)
    with pytest.raises(ValueError, match=r"^data=None, and the model has no recipe\.json"):
        Run(None, None, None).data_or_own(None)
