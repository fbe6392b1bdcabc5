"""Checkpoints under bad luck and bad will: whole or not at all, damage always seen, nothing executed."""

import builtins
import contextlib
import errno
import hashlib
import json
import os
import pickle
import resource
import shutil
import struct
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save

from marlet.errors import CheckpointFault, StorageFault
from marlet.runs import checkpoint


def tree(value):
    return {"weights": np.full((3, 2), value, np.float32), "steps": np.array(value, np.int32)}


def value_of(found):
    return int(found.arrays["['steps']"])


def write(folder, value, **options):
    return checkpoint.write(folder, f"{value:010d}", tree(value), {"iteration": value}, **options)


@pytest.fixture
def folder(tmp_path):
    """Holds one sound checkpoint, of 1."""
    write(tmp_path / "checkpoints", 1)
    return tmp_path / "checkpoints"


class Killed(BaseException):
    """Stands for `kill -9`: nothing in the program catches it."""


class Countdown:
    """Lets `calls` calls of the file system's functions pass, and fails the next one, before it does anything.

    A killed process does nothing afterwards, so after `Killed` every further call fails, too.
    """

    def __init__(self, patch, calls, failure, root):
        self.left, self.failure, self.root = calls, failure, str(root)
        self.names = []
        for module, name in (
            (builtins, "open"),
            (checkpoint, "save_file"),
            (os, "open"),
            (os, "fsync"),
            (os, "replace"),
            (os, "mkdir"),
            (os, "rmdir"),
            (os, "unlink"),
        ):
            patch.setattr(module, name, self.watched(name, getattr(module, name)))

    def watched(self, name, function):
        def call(*args, **options):
            ours = name in ("fsync", "save_file") or "dir_fd" in options or self.root in str(args[0])
            if self.left == 0 and ours:
                if self.failure is not Killed:
                    self.left = -1
                self.names.append(name)
                raise self.failure() if self.failure is Killed else OSError(self.failure, os.strerror(self.failure))
            if ours:
                self.left -= self.left > 0
                self.names.append(name)
            return function(*args, **options)

        return call


def points(folder, tmp_path):
    """How many calls one save makes."""
    with pytest.MonkeyPatch.context() as patch:
        count = Countdown(patch, 10**6, Killed, folder)
        write(folder, 2, keep=1)
    shutil.rmtree(folder)
    write(folder, 1)
    return len(count.names)


@pytest.mark.parametrize("failure", [Killed, errno.ENOSPC, errno.EIO])
def test_at_every_point_of_a_save_a_whole_checkpoint_is_found(folder, tmp_path, failure):
    total = points(folder, tmp_path)
    assert total > 8
    found = set()
    for calls in range(total):
        with pytest.MonkeyPatch.context() as patch:
            count = Countdown(patch, calls, failure, folder)
            with contextlib.suppress(Killed if failure is Killed else StorageFault):
                write(folder, 2, keep=1)
            assert len(count.names) > calls, "the failure must have happened"
        newest, passed = checkpoint.newest(folder)
        assert passed == []
        found.add(value_of(newest))
        write(folder, 3)
        assert not list(folder.glob(".*")), "what an interrupted save left behind is removed by the next"
        assert value_of(checkpoint.newest(folder)[0]) == 3
        shutil.rmtree(folder)
        write(folder, 1)
    assert found == {1, 2}


def test_a_save_that_removes_the_old_one_first_would_be_seen(folder, monkeypatch):
    """The negative control: with the old one removed before the new one is whole, some point leaves nothing."""
    lost = 0
    for calls in range(points(folder, folder)):
        with pytest.MonkeyPatch.context() as patch:
            shutil.rmtree(folder / "0000000001")
            Countdown(patch, calls, Killed, folder)
            with pytest.raises((Killed, StopIteration)):  # noqa: PT012
                write(folder, 2, keep=1)
                raise StopIteration
        try:
            checkpoint.newest(folder)
        except CheckpointFault:
            lost += 1
        shutil.rmtree(folder)
        write(folder, 1)
    assert lost > 3


def test_saving_again_under_one_name_keeps_the_old_until_the_new_is_whole(folder, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        write(folder, 1)
    monkeypatch.undo()
    assert value_of(checkpoint.newest(folder)[0]) == 1
    checkpoint.write(folder, "0000000001", tree(7), {})
    assert value_of(checkpoint.newest(folder)[0]) == 7
    write(folder, 2)
    assert value_of(checkpoint.newest(folder)[0]) == 2


def test_only_the_newest_are_kept(folder):
    for value in (2, 3, 10):
        write(folder, value)
    assert [path.name for path in checkpoint.saved(folder)] == ["0000000003", "0000000010"]


def test_a_full_disk_is_told_with_both_sizes(folder, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFault, match=r"the disk is full \([\d,]+ bytes needed, [\d,]+ free\)") as fault:
        write(folder, 2)
    monkeypatch.undo()
    assert fault.value.exit_code == 6
    assert [path.name for path in folder.iterdir()] == ["0000000001"]
    assert value_of(checkpoint.newest(folder)[0]) == 1


def test_a_file_larger_than_may_be_written_is_told_in_the_same_words(folder):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageFault, match=r"the disk is full \(400,000 bytes needed"):
            checkpoint.write(folder, "0000000002", np.zeros(100_000, np.float32), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in folder.iterdir()] == ["0000000001"]


def test_a_folder_that_cannot_be_made_is_a_storage_fault(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFault):
        write(tmp_path / "file", 1)


# Damage


def damaged(path, payload):
    path.write_bytes(payload)
    with pytest.raises(CheckpointFault) as fault:
        checkpoint.read(path.parent)
    assert fault.value.exit_code == 5
    assert str(path.parent) in str(fault.value)


@pytest.mark.parametrize("name", [checkpoint.ARRAYS, checkpoint.MANIFEST])
def test_every_truncation_is_seen(folder, name):
    path = write(folder, 2) / name
    payload = path.read_bytes()
    for length in (0, 1, len(payload) // 2, len(payload) - 1):
        damaged(path, payload[:length])
    damaged(path, payload + b" \0")
    newest, passed = checkpoint.newest(folder)
    assert value_of(newest) == 1
    assert len(passed) == 1
    assert "0000000002" in passed[0]
    path.write_bytes(payload)
    assert value_of(checkpoint.read(path.parent)) == 2  # the control


@pytest.mark.parametrize("name", [checkpoint.ARRAYS, checkpoint.MANIFEST])
def test_every_flipped_bit_is_seen(folder, name):
    path = write(folder, 2) / name
    payload = path.read_bytes()
    bits = len(payload) * 8
    for bit in np.random.default_rng(0).choice(bits, 200, replace=False):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << (bit % 8)
        damaged(path, bytes(flipped))


def test_a_missing_file_is_seen(folder):
    for name in (checkpoint.ARRAYS, checkpoint.MANIFEST):
        path = write(folder, 2)
        (path / name).unlink()
        with pytest.raises(CheckpointFault):
            checkpoint.read(path)
        shutil.rmtree(path)


def test_nothing_sound_is_told_with_every_reason(folder):
    (folder / "0000000001" / checkpoint.ARRAYS).write_bytes(b"")
    with pytest.raises(CheckpointFault, match=r"holds no sound checkpoint.*anew.*should have") as told:
        checkpoint.newest(folder)
    assert "earlier" not in str(told.value)  # there is none


# Misfits


def test_what_does_not_fit_is_named():
    arrays = checkpoint.named(tree(1))
    assert checkpoint.fit(arrays, tree(0), where=Path("here"))["steps"] == 1
    w = "['weights']"
    misfits = [
        ({w: arrays[w].astype(np.float64)}, r"\['weights'\] is float64\[3, 2\], but float32\[3, 2\]"),
        ({w: arrays[w].astype(np.float16)}, "float16"),
        ({w: arrays[w].view(np.int32)}, r"\['weights'\] is int32"),
        ({w: arrays[w].T}, r"\['weights'\] is float32\[2, 3\]"),
        ({w: arrays[w][:2]}, r"float32\[2, 2\]"),
        ({w: arrays[w][None]}, r"float32\[1, 3, 2\]"),
        ({"['steps']": np.ones(1, np.int32)}, r"\['steps'\] is int32\[1\]"),
        ({"['more']": arrays[w]}, r"has the unexpected array \['more'\]"),
    ]
    for change, message in misfits:
        with pytest.raises(CheckpointFault, match=message):
            checkpoint.fit(arrays | change, tree(0), where=Path("here"))
    with pytest.raises(CheckpointFault, match=r"lacks array \['weights'\]"):
        checkpoint.fit({"['steps']": arrays["['steps']"]}, tree(0), where=Path("here"))


def test_a_length_that_is_not_known_fits_any():
    shapes = {"a": jax.ShapeDtypeStruct((-1, 2), np.float64)}
    for length in (0, 5):
        assert checkpoint.fit({"['a']": np.zeros((length, 2))}, shapes, where=Path("x"))["a"].shape == (length, 2)
    with pytest.raises(CheckpointFault):
        checkpoint.fit({"['a']": np.zeros((5, 3))}, shapes, where=Path("x"))


def test_a_newer_format_names_both_versions(folder):
    path = folder / "0000000001" / checkpoint.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(CheckpointFault, match="format 99, but this Marlet reads format 1"):
        checkpoint.read(path.parent)


# Malice


def forged(folder, payload, **changes):
    """A checkpoint whose sums are right for a payload of the attacker's choice."""
    path = folder / "0000000009"
    path.mkdir()
    (path / checkpoint.ARRAYS).write_bytes(payload)
    manifest = {
        "format": checkpoint.FORMAT,
        "notes": {},
        "files": {checkpoint.ARRAYS: {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}},
    } | changes
    manifest["sha256"] = checkpoint._digest(manifest)
    (path / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    return path


class Canary:
    def __reduce__(self):
        return os.mkdir, ("canary",)


def header(length, text=b""):
    return struct.pack("<Q", length) + text


def entry(**fields):
    text = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | fields}).encode()
    return header(len(text), text) + bytes(4)


ITEM = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
PAYLOADS = {
    "empty": b"",
    "short": b"\x01",
    "pickle": pickle.dumps(Canary()),
    "pickle in a header": header(len(pickle.dumps(Canary())), pickle.dumps(Canary())),
    "numpy objects": b"\x93NUMPY\x01\x00" + pickle.dumps(np.array([Canary()], object)),
    "zip": b"PK\x03\x04" + bytes(100),
    "header of 2^62 bytes": header(2**62, b"{}"),
    "header of 2^64-1 bytes": header(2**64 - 1, b"{}"),
    "header of 99 MB": header(99_000_000, b"{}"),
    "no header": header(0),
    "not JSON": header(4, b"\xff\xfe\x00{"),
    "deep JSON": header(200_000, b"[" * 100_000 + b"]" * 100_000),
    "deep objects": header(500_000, b'{"a":' * 100_000),
    "a list": header(2, b"[]"),
    "a claim of 8 TB": entry(shape=[2**41], data_offsets=[0, 2**43]),
    "a shape that overflows": entry(shape=[2**33, 2**33]),
    "a negative shape": entry(shape=[-1]),
    "more shape than data": entry(shape=[100]),
    "offsets beyond the end": entry(data_offsets=[0, 400]),
    "offsets backwards": entry(data_offsets=[4, 0]),
    "a hole": entry(data_offsets=[2, 6]),
    "an unknown type": entry(dtype="OBJECT"),
    "no type": header(32, b'{"a":{"shape":[],"data":[0,4]}}\n') + bytes(4),
    "a name twice": header(2 * len(ITEM) + 3, b"{" + ITEM + b"," + ITEM + b"}") + bytes(4),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_hostile_arrays_are_refused(folder, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = forged(folder, PAYLOADS[name])
    begun = time.monotonic()
    try:
        arrays = checkpoint.read(path).arrays
    except CheckpointFault:
        pass
    else:  # harmless: then it does not fit what is expected
        with pytest.raises(CheckpointFault):
            checkpoint.fit(arrays, tree(0), where=path)
    assert time.monotonic() - begun < 2
    assert sorted(os.listdir(tmp_path)) == ["checkpoints"]
    assert value_of(checkpoint.read(folder / "0000000001")) == 1


def test_the_canary_would_sing(tmp_path, monkeypatch):
    """The control: these bytes do run code where somebody unpickles them."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(PAYLOADS["pickle"])  # noqa: S301
    assert os.listdir(tmp_path) == ["canary"]


MANIFESTS = {
    "empty": "",
    "a list": "[]",
    "a number": "3",
    "nothing": "null",
    "text": '"format"',
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "pickle": pickle.dumps(Canary(), 0).decode("latin1"),
    "too large": " " * (checkpoint.MANIFEST_LIMIT + 1),
    "files is a list": '{"format": 1, "notes": {}, "files": ["state.safetensors"]}',
    "sizes are text": '{"format": 1, "notes": {}, "files": {"state.safetensors": {"bytes": "1", "sha256": 1}}}',
    "no notes": '{"format": 1, "files": {}}',
    "yaml": "!!python/object/apply:os.mkdir [canary]",
    "not a number": '{"format": NaN, "notes": {}, "files": {}}',
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_hostile_manifests_are_refused(folder, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = forged(folder, save(checkpoint.named(tree(9))))
    assert value_of(checkpoint.read(path)) == 9  # the control: sound until here
    (path / checkpoint.MANIFEST).write_text(MANIFESTS[name])
    begun = time.monotonic()
    with pytest.raises(CheckpointFault):
        checkpoint.read(path)
    assert time.monotonic() - begun < 2
    assert os.listdir(tmp_path) == ["checkpoints"]


@pytest.mark.parametrize("notes", [[], "text", 3, None])
def test_notes_of_another_kind_are_refused(folder, notes):
    with pytest.raises(CheckpointFault):
        checkpoint.read(forged(folder, save(checkpoint.named(tree(9))), notes=notes))


@pytest.mark.parametrize("files", [{"../../secret": {}}, {"/etc/passwd": {"bytes": 1, "sha256": ""}}, {}])
def test_no_other_file_is_ever_read(folder, files):
    with pytest.raises(CheckpointFault):
        checkpoint.read(forged(folder, b"", files=files))


@pytest.mark.parametrize("what", ["arrays", "manifest", "folder"])
def test_links_are_refused(folder, tmp_path, what):
    secret = tmp_path / "elsewhere"
    original = write(folder, 2)
    if what == "folder":
        shutil.move(original, secret)
        os.symlink(secret, original)
    else:
        path = original / (checkpoint.ARRAYS if what == "arrays" else checkpoint.MANIFEST)
        shutil.move(path, secret)
        os.symlink(secret, path)
    with pytest.raises(CheckpointFault, match="symbolic links"):
        checkpoint.read(original)
    assert value_of(checkpoint.newest(folder)[0]) == 1
    write(folder, 3)
    write(folder, 4)
    assert secret.exists(), "pruning does not follow links"
