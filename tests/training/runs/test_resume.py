"""A run that stops, however it stops, goes on and ends as if nothing had been."""

import dataclasses
import errno
import fcntl
import json
import os
import random
import shutil
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
from processes import Forked, convmixer

from keras_convmixer.files.folder_lock import _warn_once
from keras_convmixer.training import RECIPES, load_run, train
from keras_convmixer.training import trainer as loop
from keras_convmixer.training.runs import folder as run_folder

pytestmark = pytest.mark.usefixtures("no_figures")

SHORT = RECIPES["digits"].replace(
    **{"name": "short", "image_size": 8, "dim": 16, "depth": 1, "epochs": 2, "ema_decay": 0.9, "flip": True},
    **{
        "rand_augment": "timm",
        "rand_augment_num_ops": 1,
        "erasing_probability": 0.25,
        "mixup_alpha": 0.3,
        "cutmix_alpha": 0.3,
    },
)
OPTIONS = (
    *("digits", "--name", "short", "--image-size", "8", "--dim", "16", "--depth", "1", "--epochs", "2", "--flip"),
    *("--ema-decay", "0.9", "--rand-augment", "timm", "--rand-augment-num-ops", "1"),
    *("--erasing-probability", "0.25", "--mixup-alpha", "0.3", "--cutmix-alpha", "0.3"),
    *("--checkpoint-minutes", "0"),
)


@pytest.fixture(scope="module")
def uninterrupted(once):
    return once("uninterrupted", lambda folder: train(SHORT, folder / "short", verbose=False)) / "short"


def assert_same(folder, uninterrupted):
    for name in ("model.keras", "best.keras"):
        weights = load_run(uninterrupted / name).model.get_weights()
        for one, other in zip(load_run(folder / name).model.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(one, other)
    assert (folder / "metrics.csv").read_text() == (uninterrupted / "metrics.csv").read_text()


class Stop(Exception):
    pass


def interrupted_at(step, folder, recipe=SHORT):
    """Train until a step, and raise there."""

    class Stopping(loop.Step):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            compiled = self.run

            def run(batch):
                if self.number == step:
                    raise Stop
                return compiled(batch)

            self.run = run

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "Step", Stopping)
        with pytest.raises(Stop):
            train(recipe, folder, checkpoint_minutes=0, verbose=False)


@pytest.fixture(scope="module")
def stopped_at(once):
    """A function that copies the run of SHORT that stopped at a step; each is trained once."""

    def copy(step, run):
        stopped = once(f"stopped_at_{step}", lambda folder: interrupted_at(step, folder / "short"))
        shutil.copytree(stopped / "short", run)

    return copy


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 19, 30])
def test_it_goes_on_bit_by_bit(uninterrupted, stopped_at, tmp_path, capfd, step):
    stopped_at(step, tmp_path / "run")
    assert not (tmp_path / "run/model.keras").exists()
    train(SHORT, tmp_path / "run")
    assert f"resuming at step {step} of 38" in capfd.readouterr().err
    assert_same(tmp_path / "run", uninterrupted)


@pytest.mark.slow
def test_a_stop_between_an_epochs_last_step_and_its_evaluation(uninterrupted, tmp_path, monkeypatch):
    def stop(*arguments):
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(loop, "evaluate", stop)
        with pytest.raises(Stop):
            train(SHORT, tmp_path / "run", checkpoint_minutes=0, verbose=False)
    train(SHORT, tmp_path / "run", verbose=False)
    assert_same(tmp_path / "run", uninterrupted)


@pytest.mark.slow
def test_a_run_that_stops_before_its_first_checkpoint_begins_with_its_weights_again(uninterrupted, tmp_path):
    recipe = SHORT.replace(weights=str(uninterrupted / "model.keras"), epochs=1)
    train(recipe, tmp_path / "quiet", verbose=False)
    interrupted_at(0, tmp_path / "run", recipe)
    assert (tmp_path / "run/checkpoints/recipe.json").exists()
    train(recipe, tmp_path / "run", verbose=False)
    assert_same(tmp_path / "run", tmp_path / "quiet")


@pytest.mark.slow
def test_the_best_epochs_weights_are_kept_through_a_stop(tmp_path, monkeypatch):
    """Validation accuracy rises and falls again, as it is made to here; the run stops before it falls."""
    weights = []

    def evaluate(model, split):
        weights.append(model.get_weights())
        return SimpleNamespace(accuracy=(0.75, 0.5)[len(weights) - 1], loss=1.0)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    recipe = SHORT.replace(rand_augment="none")
    interrupted_at(30, tmp_path / "run", recipe)
    assert len(weights) == 1
    summary = train(recipe, tmp_path / "run", verbose=False)
    assert (summary["best_epoch"], summary["best_validation_accuracy"]) == (0, 0.75)
    assert summary["validation_accuracy"] == 0.5
    for name, expected in (("best.keras", weights[0]), ("model.keras", weights[1])):
        for one, other in zip(load_run(tmp_path / "run" / name).model.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_and_said(uninterrupted, stopped_at, tmp_path, caplog):
    stopped_at(30, tmp_path / "run")
    (tmp_path / "run/checkpoints/ckpt-31_temp").mkdir()  # as a killed process leaves it
    (tmp_path / "run/checkpoints/checkpoint.tmp12").touch()
    data = sorted((tmp_path / "run/checkpoints").glob("*.data-*"))
    assert len(data) == 3
    newest = max(data, key=lambda path: int(path.name.split("-")[1].split(".")[0]))
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    train(SHORT, tmp_path / "run", verbose=False)
    assert "is damaged" in caplog.text
    assert "going back to the one before" in caplog.text
    left = {path.name for path in (tmp_path / "run/checkpoints").iterdir()}
    assert not left & {"ckpt-31_temp", "checkpoint.tmp12"}
    assert_same(tmp_path / "run", uninterrupted)


@pytest.mark.slow
def test_only_damaged_checkpoints_are_an_error(stopped_at, tmp_path):
    stopped_at(3, tmp_path / "run")
    for file in (tmp_path / "run/checkpoints").glob("*.index"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged, or of .*: .* remove the folder"):
        train(SHORT, tmp_path / "run", verbose=False)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", bytes(64)])
def test_a_damaged_list_of_checkpoints_loses_none(uninterrupted, stopped_at, tmp_path, capfd, content):
    stopped_at(30, tmp_path / "run")
    (tmp_path / "run/checkpoints/checkpoint").write_bytes(content)
    train(SHORT, tmp_path / "run")
    assert "resuming at step 30 of 38" in capfd.readouterr().err
    assert_same(tmp_path / "run", uninterrupted)


def test_a_run_that_is_being_trained_is_left_alone(tmp_path):
    with run_folder.locked(tmp_path / "run"), pytest.raises(FileExistsError, match="is being trained by another"):
        train(SHORT, tmp_path / "run", overwrite=True, verbose=False)


DAMAGE = {
    "nothing": (b"", "Expecting value"),
    "half": (b'{"name": "di', "Unterminated string"),
    "bytes": (b"\xff\xfe\0", "can't decode"),
    "list": (b"[1]", "it does not hold a JSON object"),
    "depth": (b"[" * 10**5, "recursion"),
}


@pytest.mark.parametrize("name", ["recipe.json", "data.json"])
@pytest.mark.parametrize(("content", "sentence"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_facts_of_a_run_are_a_sentence_and_may_be_overwritten(tmp_path, name, content, sentence):
    checkpoints = tmp_path / "run/checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "recipe.json").write_text(json.dumps(dataclasses.asdict(SHORT)))
    (checkpoints / "data.json").write_text('{"fingerprint": 1}')
    (checkpoints / "ckpt-3.index").touch()
    assert run_folder.can_resume(tmp_path / "run", SHORT, overwrite=False)
    (checkpoints / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is damaged \(.*{sentence}.*\): put it back, pass overwrite=True"):
        run_folder.can_resume(tmp_path / "run", SHORT, overwrite=False)
    assert not run_folder.can_resume(tmp_path / "run", SHORT, overwrite=True)


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EINVAL, errno.EIO, errno.EACCES, errno.ENOTSUP, errno.ENOLCK])
def test_without_locks_a_run_is_trained_and_the_log_says_what_is_not_guarded(tmp_path, monkeypatch, caplog, error):
    def flock(*arguments):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", flock)
    _warn_once.cache_clear()
    with run_folder.locked(tmp_path / "run"), run_folder.locked(tmp_path / "run"):
        pass
    (warning,) = caplog.messages
    assert "the file system has no locks" in warning
    assert f"make sure that no other process trains in {tmp_path}" in warning


@pytest.mark.slow
def test_another_recipe_does_not_go_on(stopped_at, tmp_path):
    stopped_at(3, tmp_path / "run")
    with pytest.raises(FileExistsError, match=r"was begun with epochs=2: pass overwrite=True to begin again"):
        train(SHORT.replace(epochs=1), tmp_path / "run", verbose=False)
    train(SHORT.replace(epochs=1), tmp_path / "run", overwrite=True, verbose=False)
    assert json.loads((tmp_path / "run/recipe.json").read_text())["optimization"]["epochs"] == 1


def start(folder):
    return Forked("train", *OPTIONS, "--runs", folder, environment={"COLUMNS": "200"})


def wait_for_checkpoint(folder, seconds=120):
    until = time.monotonic() + seconds
    while not any((folder / "short/checkpoints").glob("*.index")):
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.slow
def test_sigkill_then_sigterm_then_ctrl_c_then_to_the_end(uninterrupted, tmp_path):
    killed = start(tmp_path)
    wait_for_checkpoint(tmp_path)
    time.sleep(random.uniform(0, 0.5))
    killed.process.kill()
    assert killed.finished().returncode == -signal.SIGKILL

    for number, code in ((signal.SIGTERM, 75), (signal.SIGINT, 130)):
        asked = start(tmp_path)
        asked.wait_for("resuming at step")
        # On a machine without a GPU the second line says what to do about it.
        lines = [line for line in asked.output("stderr").splitlines() if "TensorFlow finds no GPU" not in line]
        assert "one_device" in lines[0]
        assert "10 labels" in lines[1]
        assert "resuming at step" in lines[2]
        os.kill(asked.process.pid, number)
        stopped = asked.finished(seconds=60)
        assert stopped.returncode == code, stopped.stderr
        assert "run the same command to resume" in stopped.stderr
        assert ("Ctrl-C again stops at once" in stopped.stderr) == (number == signal.SIGINT)

    again = convmixer("train", *OPTIONS, "--runs", tmp_path)
    assert again.returncode == 0, again.stderr
    assert "resuming at step" in again.stderr
    assert_same(tmp_path / "short", uninterrupted)
