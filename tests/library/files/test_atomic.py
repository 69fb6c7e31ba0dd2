import errno
import fcntl
import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from keras_convmixer.files import atomic, folder_lock
from keras_convmixer.files.atomic import atomic_file, atomic_folder, require_folder_name


def fill(folder, content):
    (folder / "one").write_text(content)
    (folder / "below").mkdir()
    (folder / "below" / "two").write_text(content)


def content_of(folder):
    """The content of a folder that is whole; None where there is none; fails where it is half of one."""
    if not folder.exists():
        return None
    files = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert set(files) == {"one", "below/two"}
    assert files["one"] == files["below/two"]
    return files["one"]


FILE_SYSTEM_EVENTS = {"open", "ctypes.dlsym"} | {
    f"os.{event}" for event in ("mkdir", "rename", "rmdir", "remove", "listdir", "scandir")
}


def write_and_die(path, content, moment):
    """Replace a folder; die at the moment-th thing that the process asks of the file system."""
    asked = 0

    def hook(event, arguments):
        nonlocal asked
        if event in FILE_SYSTEM_EVENTS:
            asked += 1
            if asked == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    with atomic_folder(path) as folder:
        fill(folder, content)


def run_in_process(function, *arguments):
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.slow
@pytest.mark.parametrize("former", [None, "former"])
def test_killed_at_every_moment_it_is_the_former_or_the_new(tmp_path, former):
    seen = []
    for moment in range(1, 200):
        path = tmp_path / str(moment) / "bundle"
        if former:
            with atomic_folder(path) as folder:
                fill(folder, former)
        code = run_in_process(write_and_die, path, "new", moment)
        seen.append(content_of(path))
        with atomic_folder(path) as folder:  # the next one succeeds and sweeps up
            fill(folder, "next")
        assert content_of(path) == "next"
        assert [entry.name for entry in path.parent.iterdir()] == ["bundle"]
        if code == 0:
            break
    assert code == 0
    assert len(seen) > 10
    # First the former, from some moment on the new; never anything else.
    assert seen == [former] * seen.count(former) + ["new"] * seen.count("new")
    assert min(seen.count(former), seen.count("new")) > 1


def test_an_exception_leaves_the_former(tmp_path):
    path = tmp_path / "bundle"
    for content in ("former", None):
        try:
            with atomic_folder(path) as folder:
                fill(folder, content or "new")
                if content is None:
                    raise RuntimeError
        except RuntimeError:
            pass
    assert content_of(path) == "former"
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_an_empty_folder_and_missing_parents_are_fine(tmp_path):
    for path in (tmp_path / "empty", tmp_path / "a" / "b"):
        if path.name == "empty":
            path.mkdir()
        with atomic_folder(path) as folder:
            fill(folder, "new")
        assert content_of(path) == "new"


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    with atomic_folder(tmp_path / "link") as folder:
        fill(folder, "new")
    assert (tmp_path / "link").is_symlink()
    assert content_of(tmp_path / "target") == "new"


def test_others_may_read_what_the_umask_allows(tmp_path):
    former = os.umask(0o022)
    try:
        with atomic_folder(tmp_path / "bundle") as folder:
            fill(folder, "new")
    finally:
        os.umask(former)
    assert (tmp_path / "bundle").stat().st_mode & 0o777 == 0o755


def test_without_the_exchange_call_two_renames_do(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    for content in ("former", "new"):
        with atomic_folder(tmp_path / "bundle") as folder:
            fill(folder, content)
    assert content_of(tmp_path / "bundle") == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_without_the_exchange_call_a_failure_restores_the_former(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    with atomic_folder(tmp_path / "bundle") as folder:
        fill(folder, "former")
    rename = Path.rename

    def fail_once_the_former_is_away(self, target):
        if self.name.endswith(".partial") and not target.exists():
            raise PermissionError(errno.EACCES, "no", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once_the_former_is_away)
    with pytest.raises(PermissionError), atomic_folder(tmp_path / "bundle") as folder:
        fill(folder, "new")
    assert content_of(tmp_path / "bundle") == "former"
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("published", [True, False])
def test_a_kill_between_the_two_renames_is_mended_by_the_next(tmp_path, published):
    fill_former = tmp_path / f".bundle.0123abcd.{atomic._host()}.former"
    fill_former.mkdir()
    fill(fill_former, "former")
    if published:
        (tmp_path / "bundle").mkdir()
        fill(tmp_path / "bundle", "published")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "bundle"):
        raise RuntimeError
    assert content_of(tmp_path / "bundle") == ("published" if published else "former")
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_what_only_has_a_partial_folders_name_is_left_alone(tmp_path):
    names = [f".bundle.{token}.{atomic._host()}.partial" for token in ("0000f11e", "0000b1be")]
    (tmp_path / names[0]).write_text("mine")
    os.mkfifo(tmp_path / names[1])  # to open one would hang
    with atomic_folder(tmp_path / "bundle") as folder:
        fill(folder, "new")
    assert {entry.name for entry in tmp_path.iterdir()} == {"bundle", *names}


def test_what_belongs_to_another_folder_of_a_longer_name_is_left_alone(tmp_path):
    (tmp_path / f".bundle.v2.0123abcd.{atomic._host()}.former").mkdir()
    with atomic_folder(tmp_path / "bundle.v2", alone=True), atomic_folder(tmp_path / "bundle", alone=True) as folder:
        fill(folder, "new")
    assert content_of(tmp_path / "bundle") == "new"


def test_a_parent_that_is_locked_for_long_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "PATIENCE", 0.1)
    with atomic._open(tmp_path) as parent:
        fcntl.flock(parent, fcntl.LOCK_EX)
        with atomic_folder(tmp_path / "bundle") as folder:
            fill(folder, "new")
    assert content_of(tmp_path / "bundle") == "new"


def test_what_another_host_may_still_be_writing_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    for name in ("partial", "former"):
        (tmp_path / f".bundle.0123abcd.{atomic._host()}.{name}").mkdir()
    monkeypatch.undo()
    (tmp_path / f".bundle.0123abcd.{atomic._host()}.partial").mkdir()
    (tmp_path / "bundle").mkdir()
    with atomic_folder(tmp_path / "bundle") as folder:
        fill(folder, "new")
    left = [entry.name.rpartition(".")[2] for entry in tmp_path.iterdir() if entry.name != "bundle"]
    assert sorted(left) == ["former", "partial"]


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EINVAL, errno.EIO, errno.EACCES, errno.ENOTSUP, errno.ENOLCK])
def test_without_locks_a_folder_is_written_and_nothing_swept_up(tmp_path, monkeypatch, caplog, error):
    def flock(*arguments):
        raise OSError(error, os.strerror(error))

    left = tmp_path / f".bundle.0123abcd.{atomic._host()}.partial"
    left.mkdir()
    monkeypatch.setattr(fcntl, "flock", flock)
    folder_lock._warn_once.cache_clear()
    for content in ("one", "other"):
        with atomic_folder(tmp_path / "bundle") as folder:
            fill(folder, content)
    assert content_of(tmp_path / "bundle") == "other"
    assert left.exists()
    (warning,) = caplog.messages
    assert f"delete by hand what killed processes leave as {tmp_path}/.bundle.*.partial" in warning


def test_a_mount_point_is_refused_before_any_work(small_disk):
    disk = small_disk("100k")
    with pytest.raises(OSError, match="a mount point cannot be replaced: name a folder in it"), atomic_folder(disk):
        pytest.fail("the block ran")


def test_a_file_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "target").write_text("former")
    (tmp_path / "link").symlink_to("target")
    with atomic_file(tmp_path / "link") as partial:
        partial.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


@pytest.mark.skipif(sys.platform != "linux", reason="the exchange is Linux's renameat2")
def test_exchange_swaps_two_names(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not atomic._exchange(tmp_path / "one", tmp_path / "other"):
        pytest.skip("this file system has no exchange")
    assert (tmp_path / "one" / "other").exists()
    assert (tmp_path / "other" / "one").exists()
    with pytest.raises(OSError, match="No such file"):
        atomic._exchange(tmp_path / "one", tmp_path / "missing")


def write_slowly(path, started, go_on):
    with atomic_folder(Path(path)) as folder:
        started.set()
        go_on.wait()
        fill(folder, "slow")


def test_another_process_that_still_writes_is_not_swept_up(tmp_path):
    path = tmp_path / "bundle"
    context = multiprocessing.get_context("spawn")
    started, go_on = context.Event(), context.Event()
    process = context.Process(target=write_slowly, args=(str(path), started, go_on), daemon=True)
    process.start()
    assert started.wait(60)
    with pytest.raises(FileExistsError, match=r"another process is writing .*bundle"), atomic_folder(path, alone=True):
        pytest.fail("the block ran")
    with atomic_folder(path) as folder:
        fill(folder, "quick")
    assert content_of(path) == "quick"
    go_on.set()
    process.join()
    assert process.exitcode == 0
    assert content_of(path) == "slow"


@pytest.mark.parametrize("context", [atomic_folder, atomic_file])
def test_a_full_disk_is_named_and_the_former_stays(small_disk, context):
    disk = small_disk("100k")
    path = disk / "thing"

    def write(place, size):
        (place / "file" if context is atomic_folder else place).write_bytes(b"x" * size)

    with context(path) as place:
        write(place, 1000)
    with pytest.raises(OSError, match="no space is left on the device: free some") as error, context(path) as place:
        write(place, 200_000)
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(path)
    assert (path / "file" if context is atomic_folder else path).stat().st_size == 1000
    assert [entry.name for entry in disk.iterdir()] == ["thing"]


def test_file_keeps_its_suffix_and_replaces_when_done(tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("former")
    with atomic_file(path) as partial:
        assert partial.suffix == ".keras"
        partial.write_text("new")
        assert path.read_text() == "former"
    assert path.read_text() == "new"
    with pytest.raises(RuntimeError), atomic_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(FileExistsError, match="file is a file: name a folder"):
            require_folder_name(path)
    with pytest.raises(ValueError, match="gs:/bucket/bundle is not a local folder"):
        require_folder_name(Path("gs://bucket/bundle"))
    require_folder_name(tmp_path / "new" / "one")
    require_folder_name(tmp_path)
