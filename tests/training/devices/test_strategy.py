import json

import pytest

from keras_convmixer.training.devices import strategy
from keras_convmixer.training.devices.strategy import choose_strategy


def tf_config(index=0, kind="worker", **cluster):
    cluster = cluster or {"worker": ["a:1", "b:2"]}
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


def test_one_machine_without_gpus_is_one_device(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    replicas = choose_strategy("auto")
    assert (replicas.name, replicas.num_replicas, replicas.local_replicas, replicas.is_chief) == (
        "one_device",
        1,
        1,
        True,
    )
    assert replicas.describe(64) == "one_device: 1 CPU, batches of 64 images"


def test_a_cluster_of_one_is_one_device(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_config(worker=["a:1"]))
    assert choose_strategy("auto").name == "one_device"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "TF_CONFIG cannot be read"),
        ("[1]", "TF_CONFIG cannot be read"),
        (tf_config(worker="a:1"), r'TF_CONFIG cannot be read \("a:1" is not a list of addresses\)'),
        (tf_config(worker=[1, 2]), "TF_CONFIG cannot be read"),
        (tf_config(2), "has no worker 2 among a:1, b:2"),
        (tf_config(0, "ps"), "has no ps 0 among"),
    ],
)
def test_a_wrong_tf_config_is_named(monkeypatch, text, message):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=message) as error:
        choose_strategy("auto")
    assert 'give {"cluster"' in str(error.value)


def test_multi_worker_needs_a_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match="set TF_CONFIG, or start with `convmixer launch`"):
        choose_strategy("multi_worker")


def test_places_in_a_cluster(monkeypatch):
    for config, place in (
        (tf_config(1), 1),
        (tf_config(0, "chief", chief=["a:1"], worker=["b:2", "c:3"]), 0),
        (tf_config(1, "worker", chief=["a:1"], worker=["b:2", "c:3"]), 2),
    ):
        _, workers, worker = strategy._from_tf_config(config)
        assert worker == place
        assert workers == (3 if "chief" in json.loads(config)["cluster"] else 2)
