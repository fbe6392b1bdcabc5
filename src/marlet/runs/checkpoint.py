"""Checkpoints: all arrays of a run in one safetensors file, with a manifest that says what must be found in it.

A checkpoint is a directory that appears whole or not at all: it is written under a temporary name, every file and the
directory are flushed to the disk, and only then is it renamed, to a name that was never used before: its iteration, with a
"+" behind where that was saved before. Older ones are removed after that. Loading verifies sizes and SHA-256, the
manifest's own included, before a byte is used, and never runs code: there is no pickle anywhere.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from marlet.engine.devices import bytes_of
from marlet.errors import CheckpointFault, StorageFault

FORMAT = 1
ARRAYS, MANIFEST = "state.safetensors", "manifest.json"
MANIFEST_LIMIT = 1 << 20
"""Bytes of a manifest at the most: a larger one was not written by Marlet."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    path: Path
    notes: dict[str, Any]
    """What the run noted beside the arrays: iteration, seconds, length of the metrics file."""
    arrays: dict[str, np.ndarray]


def write(folder: Path, label: str, tree: PyTree[np.ndarray], notes: dict[str, Any], *, keep: int = 2) -> Path:
    """Save a tree as `folder/label`, then remove all but the newest `keep`.

    Raises:
        StorageFault: if the disk is full or may not be written; earlier checkpoints are untouched.
    """
    while (folder / label).exists():
        label += "+"  # saved before, and kept until the new one is whole; it sorts after the old one
    final, temporary = folder / label, folder / f".{label}.tmp"
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in named(tree).items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        temporary.mkdir()
        save_file(arrays, temporary / ARRAYS)
        manifest = {"format": FORMAT, "notes": notes, "files": {ARRAYS: _flushed(temporary / ARRAYS)}}
        manifest["sha256"] = _digest(manifest)
        with open(temporary / MANIFEST, "w") as file:
            json.dump(manifest, file, indent=1)
        _flushed(temporary / MANIFEST)
        _flush_folder(temporary)
        os.replace(temporary, final)
        _flush_folder(folder)
    except (OSError, SafetensorError) as cause:
        shutil.rmtree(temporary, ignore_errors=True)
        free, needed = shutil.disk_usage(folder if folder.exists() else folder.parent).free, bytes_of(arrays)
        number = _error_number(cause)
        why = "the disk is full" if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else os.strerror(number)
        raise StorageFault(
            f"Could not save {final}: {why} ({needed:,} bytes needed, {free:,} free). Earlier checkpoints are "
            "untouched; free some space and go on with --resume."
        ) from cause
    for old in saved(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def saved(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first, whether sound or not."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def sweep(folder: Path) -> None:
    """Remove what an interrupted save left behind."""
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def read(path: Path) -> Checkpoint:
    """Verify and load one checkpoint.

    Raises:
        CheckpointFault: if it is damaged, was not written by Marlet, or by a newer format.
    """
    try:
        if any(part.is_symlink() for part in (path, path / MANIFEST, path / ARRAYS)):
            raise CheckpointFault(f"{path} has symbolic links, which no Marlet checkpoint has.")
        if (path / MANIFEST).stat().st_size > MANIFEST_LIMIT:
            raise CheckpointFault(f"{path} is not a Marlet checkpoint: its {MANIFEST} is too large.")
        manifest = json.loads((path / MANIFEST).read_bytes())
        version, notes, own = manifest["format"], manifest["notes"], manifest.pop("sha256", None)
        expected = manifest["files"][ARRAYS]
        size, digest = expected["bytes"], expected["sha256"]
        whole = own == _digest(manifest) and isinstance(notes, dict)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        raise CheckpointFault(f"{path} is not a whole Marlet checkpoint: its {MANIFEST} cannot be read.") from cause
    if version != FORMAT:
        raise CheckpointFault(f"{path} has checkpoint format {version}, but this Marlet reads format {FORMAT}.")
    if not whole:
        raise CheckpointFault(f"{path} is damaged: the checksum of {MANIFEST} does not match.")
    file = path / ARRAYS
    if not file.is_file() or file.stat().st_size != size:
        raise CheckpointFault(f"{path} is damaged: {ARRAYS} should have {size} bytes.")
    payload = file.read_bytes()
    if hashlib.sha256(payload).hexdigest() != digest:
        raise CheckpointFault(f"{path} is damaged: the checksum of {ARRAYS} does not match.")
    try:
        return Checkpoint(path, notes, load(payload))
    except (SafetensorError, ValueError, KeyError, TypeError) as cause:
        raise CheckpointFault(f"{path} is damaged: {ARRAYS} cannot be read.") from cause


def newest(folder: Path) -> tuple[Checkpoint, list[str]]:
    """The newest checkpoint that is sound, and one sentence for each that had to be passed over.

    Raises:
        CheckpointFault: if there is none.
    """
    passed = []
    for path in reversed(saved(folder)):
        try:
            return read(path), passed
        except CheckpointFault as fault:
            passed.append(str(fault))
    raise CheckpointFault(
        " ".join([f"{folder} holds no sound checkpoint, so the run has to be trained anew.", *passed])
    )


def fit(arrays: dict[str, np.ndarray], shapes: PyTree, *, where: Path) -> PyTree[np.ndarray]:
    """The arrays as a tree of the given shapes; a length of -1 stands for any.

    Raises:
        CheckpointFault: naming the first leaf that is missing, left over, or of another shape or type.
    """
    expected = named(shapes)
    for name in sorted(expected.keys() ^ arrays.keys()):
        state = "lacks" if name in expected else "has the unexpected"
        raise CheckpointFault(f"{where} {state} array {name}: it was saved by another algorithm or other options.")
    for name, leaf in expected.items():
        found = arrays[name]
        if not _same_shape(found.shape, leaf.shape) or found.dtype != leaf.dtype:
            raise CheckpointFault(
                f"{where}: {name} is {found.dtype}{list(found.shape)}, but {leaf.dtype}{list(leaf.shape)} is expected; "
                "it was saved by another algorithm or other options."
            )
    return jax.tree.unflatten(jax.tree.structure(shapes), [arrays[name] for name in expected])


def _same_shape(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(found) == len(expected) and all(want in (-1, have) for have, want in zip(found, expected, strict=True))


def named(tree: PyTree) -> dict[str, Any]:
    """A tree's leaves by their path, in the tree's order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _digest(manifest: dict[str, Any]) -> str:
    """Of all that a manifest says but this."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _flushed(path: Path) -> dict[str, Any]:
    """What a manifest says of a file, once that has reached the disk."""
    with open(path, "rb+") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest}


def _error_number(cause: OSError | SafetensorError) -> int:
    """What went wrong with the file. Safetensors tells it in words: "... No space left on device (os error 28)"."""
    if isinstance(cause, OSError):
        return cause.errno or errno.EIO
    told = re.search(r"os error (\d+)", str(cause))
    if told is None:
        raise cause  # not the disk's fault
    return int(told[1])


def _flush_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
