"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import stat

import pytest

from fastrnn.atomic import atomic_path


def test_the_file_appears_at_the_end(tmp_path):
    path = tmp_path / "a.npy"
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".npy"
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.npy"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_everything_as_it_was(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failing_rename_leaves_nothing(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no"), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="folders cannot be opened elsewhere")
def test_data_are_on_the_disk_before_the_name_and_the_name_at_the_end(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor):
        status = os.fstat(descriptor)
        steps.append(("fsync", "folder" if stat.S_ISDIR(status.st_mode) else status.st_size))
        fsync(descriptor)

    def recorded_replace(*names):
        steps.append("rename")
        replace(*names)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_bytes(b"1234")
    assert steps == [("fsync", 4), "rename", ("fsync", "folder")]


def test_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with atomic_path("a.txt") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "a.txt").read_text() == "x"


def test_folders_are_refused_by_their_own_name(tmp_path):
    with pytest.raises(IsADirectoryError) as caught, atomic_path(tmp_path):
        pytest.fail("was entered")
    assert caught.value.filename == str(tmp_path)
    with pytest.raises(FileNotFoundError) as caught, atomic_path(tmp_path / "missing" / "a.txt"):
        pytest.fail("was entered")
    assert caught.value.filename == str(tmp_path / "missing" / "a.txt")


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_devices_and_pipes_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"), atomic_path(tmp_path / "pipe"):
        pytest.fail("was entered")
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.skipif(os.name != "posix", reason="rights and links of POSIX")
def test_rights_and_links_are_kept(tmp_path):
    with atomic_path(tmp_path / "new") as temporary:
        temporary.write_text("x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode  # as the umask says

    (tmp_path / "plain").chmod(0o640)
    (tmp_path / "link").symlink_to(tmp_path / "plain")
    with atomic_path(tmp_path / "link") as temporary:
        temporary.write_text("y")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "plain").read_text() == "y"
    assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o640
