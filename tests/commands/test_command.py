"""The command line as a person meets it. The quickstart runs once, for all that look at what it made."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from processes import convmixer

from keras_convmixer.export import read_manifest
from keras_convmixer.training import load_dataset, load_run

COMMANDS = (
    *(
        "quickstart",
        "train",
        "evaluate",
        "qat",
        "export",
        "predict",
        "inspect",
        "benchmark",
        "variants",
        "convert",
        "visualize",
    ),
)


def test_help_lists_the_commands():
    process = convmixer("--help")
    assert process.returncode == 0
    for command in COMMANDS:
        assert command in process.stdout


@pytest.mark.parametrize("command", [*COMMANDS, "train digits"])
def test_every_help_shows_an_example(command):
    process = convmixer(*command.split(), "--help")
    assert process.returncode == 0
    assert re.search(rf"(For example|Command): convmixer {command}", process.stdout)


def test_a_recipes_fields_are_options():
    shown = convmixer("train", "digits", "--help").stdout
    for option in ("--epochs INT", "--learning-rate FLOAT", "--patch-size INT", "--seed INT"):
        assert option in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "quickstart"),
        ("tran digits", "convmixer: there is no command tran: did you mean train?"),
        ("train cifr10 --epochs 3", "convmixer train: there is no recipe cifr10: did you mean cifar10?"),
        ("plan imagenet_1536", "did you mean imagenet_1536_20?"),
        ("train qqq", "there are digits, cifar10"),
        ("launch digitz", "there is no recipe digitz: did you mean digits?"),
        ("train digits --epoch 3", "there is no option --epoch: did you mean --epochs?"),
        ("train digits --epochs many", "convmixer train: --epochs 'many' is not a whole number"),
        ("train digits --epochs 0", "convmixer train: --epochs 0: give more than 0"),
        ("train digits --patch-size 17", "--patch-size 17 is larger than the 16x16 image: at most 16"),
        ("export runs/x", "--out"),
        ("predict bundle", "name at least one image"),
        ("predict bundle a.png --top 0", "--top 0"),
        ("export runs/x --out b --formats int9", "--formats 'int9' is not one of"),
        ("launch digits --epochs many", "convmixer launch: --epochs 'many' is not a whole number"),
        ("export runs/x --out b --validation-images 0", "--validation-images 0"),
        ("qat", "RUN is missing, as in: convmixer qat runs/digits"),
        ("qat nowhere --learning-rate 2", "--learning-rate 2.0: give more than 0 and less than 1"),
        ("compress nowhere --out b --sparsity 1", "--sparsity 1.0: give more than 0 and less than 1"),
        ("compress nowhere --out b --method cluster --clusters 1", "--clusters 1: give 2 or more"),
        ("inspect", "FILE"),
        ("convert a.safetensors", "OUT"),
        ("convert a.safetensors b.keras --activation tanh", "gelu"),
        ("visualize", "MODEL"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments, words):
    process = convmixer(*arguments.split())
    assert process.returncode == 2
    assert words in process.stderr
    assert process.stdout == ""
    assert len(process.stderr.splitlines()) == 1 or not arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("evaluate nowhere", "nowhere: there is no such run folder"),
        ("evaluate fill", "fill: there is no such run folder or .keras file: did you mean file?"),
        ("export nowhere --out bundle", "nowhere: there is no such run folder"),
        ("predict nowhere a.png", "nowhere: there is no such bundle"),
        ("train digits --dataset nowhere", "no data set 'nowhere'"),
        ("train digits --runs file", "file is a file: name a folder"),
        ("convert nowhere.safetensors b.keras", "nowhere.safetensors: there is no such file"),
        ("convert file b.keras", "file does not have the name of a file of weights"),
        ("visualize nowhere", "nowhere: there is no such run folder"),
        ("visualize file --out file", "file is a file: name a folder"),
    ],
)
def test_failures_exit_with_1_and_one_sentence(tmp_path, arguments, words):
    (tmp_path / "file").touch()
    process = convmixer(*arguments.split(), cwd=tmp_path)
    assert process.returncode == 1
    (sentence,) = process.stderr.splitlines()
    assert sentence.startswith(f"convmixer {arguments.split()[0]}: ")
    assert words in sentence
    assert process.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_the_users_other_backend_is_no_hindrance(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert "no such run folder" in convmixer("evaluate", "nowhere", blocked=("jax",)).stderr


@pytest.mark.slow
def test_a_missing_package_is_named_with_the_remedy(tmp_path):
    process = convmixer("train", "digits", cwd=tmp_path, blocked=("sklearn",))
    assert process.returncode == 1
    assert "pip install '.[train,export]'" in process.stderr


def test_verbose_shows_the_traceback():
    process = convmixer("predict", "nowhere", "a.png", "--verbose")
    assert process.returncode == 1
    assert "Traceback" in process.stderr
    assert process.stderr.splitlines()[-1].startswith("convmixer predict: nowhere")


def test_version():
    assert re.fullmatch(r"convmixer \d+\.\d+\.\d+\n", convmixer("--version").stdout)


@pytest.mark.slow
def test_quickstart_shows_accuracy_agreement_and_sizes(quickstart):
    assert quickstart.process.returncode == 0, quickstart.process.stderr
    shown = quickstart.process.stdout
    accuracy = float(re.search(r"test accuracy\W+([\d.]+)%", shown)[1])
    assert accuracy >= 98
    for name in ("saved_model/1", "litert/float32.tflite", "litert/int8.tflite"):
        size, agreement = re.search(rf"{name}\W+([\d.,]+) kB, ([\d.]+)% agreement", shown).groups()
        facts = next(
            artifact
            for artifact in json.loads((quickstart.bundle / "manifest.json").read_text())["artifacts"]
            if artifact["path"] == name
        )
        assert float(size.replace(",", "")) == pytest.approx(facts["size"] / 1000, abs=0.05)
        assert float(agreement) >= 99
    for step in ("convmixer train digits", "convmixer export", "convmixer predict"):
        assert step in quickstart.process.stderr
    assert "Traceback" not in quickstart.process.stderr
    assert "Warning" not in quickstart.process.stderr


@pytest.mark.slow
def test_quickstart_leaves_figures_and_metrics(quickstart):
    for name in ("curves", "confusion", "predictions"):
        assert min(Image.open(quickstart.run / f"{name}.png").size) > 300
    assert len(list(csv.DictReader((quickstart.run / "metrics.csv").open()))) == 20
    assert json.loads((quickstart.run / "summary.json").read_text())["test_accuracy"] >= 0.98


@pytest.mark.slow
def test_predict_gets_nine_of_ten_held_out_digits(quickstart, tmp_path):
    run = load_run(quickstart.run)
    test = load_dataset("digits", run.preprocessing).test
    paths = []
    for index in range(100, 110):  # others than the quickstart's own
        paths.append(tmp_path / f"{test.labels[index]}_{index}.png")
        Image.fromarray(test.images[index]).save(paths[-1])
    for format in ("float32", "int8"):
        process = convmixer(
            *("predict", quickstart.bundle, *paths, "--format", format, "--json"), blocked=("tensorflow", "keras")
        )
        answers = [json.loads(line) for line in process.stdout.splitlines()]
        right = sum(Path(a["file"]).name[0] == a["predictions"][0]["label"] for a in answers)
        assert len(answers) == 10
        assert right >= 9


@pytest.mark.slow
def test_predict_imports_no_tensorflow(quickstart):
    image = next((quickstart.run / "images").iterdir())
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "keras_convmixer",
        "predict",
        "--verbose",
        quickstart.bundle,
        image,
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.split("|")[-1].strip() for line in process.stderr.splitlines() if "|" in line}
    assert "ai_edge_litert.interpreter" in imported  # the list reaches to the end
    assert not {name for name in imported if name.split(".")[0] in ("tensorflow", "keras")}


@pytest.mark.slow
def test_evaluate_says_what_the_summary_says(quickstart, tmp_path):
    expected = json.loads((quickstart.run / "summary.json").read_text())["test_accuracy"]
    process = convmixer("evaluate", quickstart.run, "--json", "--out", tmp_path / "figures")
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert result["accuracy"] == expected
    assert result["images"] == sum(c["images"] for c in result["classes"]) == 360
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"confusion.png", "predictions.png"}


@pytest.mark.slow
def test_a_bare_model_needs_data_and_takes_a_folder(quickstart, tmp_path):
    run = load_run(quickstart.run)
    keras.saving.load_model(quickstart.run / "model.keras").save(tmp_path / "bare.keras")
    process = convmixer("evaluate", tmp_path / "bare.keras")
    assert process.returncode == 2
    assert "--data" in process.stderr
    test = load_dataset("digits", run.preprocessing).test
    for label in range(10):
        (tmp_path / "data" / str(label)).mkdir(parents=True)
        for index in np.flatnonzero(test.labels == label)[:12]:
            Image.fromarray(test.images[index]).save(tmp_path / "data" / str(label) / f"{index}.png")
    process = convmixer("evaluate", tmp_path / "bare.keras", "--data", tmp_path / "data", "--json")
    result = json.loads(process.stdout)
    assert result["images"] == 120
    assert result["accuracy"] >= 0.95
    narrow = convmixer(
        *("evaluate", tmp_path / "bare.keras", "--data", tmp_path / "data"), "--json", "--crop-fraction", "0.5"
    )
    assert json.loads(narrow.stdout)["accuracy"] < result["accuracy"]
    wrong = convmixer(*("evaluate", tmp_path / "bare.keras", "--data", tmp_path / "data"), "--crop-fraction", "0")
    assert wrong.returncode == 2
    assert "--crop-fraction 0" in wrong.stderr
    out = tmp_path / "bundle"
    options = ("--out", out, "--formats", "float32", "int8")
    options += ("--target", "litert_int8", "--output-kind", "single-label")
    process = convmixer("export", tmp_path / "bare.keras", "--data", tmp_path / "data", *options)
    assert process.returncode == 0, process.stderr
    assert "litert/int8.tflite" in process.stdout
    assert (out / "labels.txt").read_text().split() == list("0123456789")
    targets = {artifact["name"]: artifact.get("target") for artifact in read_manifest(out)["artifacts"]}
    assert targets == {"saved_model": None, "float32": "litert", "int8": "litert_int8"}
    wrong = convmixer(
        *("export", tmp_path / "bare.keras", "--data", tmp_path / "data", *options[:2]), "--output-kind", "binary"
    )
    assert wrong.returncode == 2
    assert "--output-kind 'binary'" in wrong.stderr
    assert read_manifest(out)["model"]  # the former bundle is still whole
