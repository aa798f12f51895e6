"""Features that somebody else extracted: HDF5, LMDB, or a folder of .npy files.

Nothing is executed: pickled arrays are refused. Letters: N stored frames of a video, D feature width.
"""

import contextlib
import io
import math
import os
import pathlib
import weakref
from typing import Any, Protocol

import numpy as np

MAX_BYTES = 8 << 30  # of one video's features, which are held in memory
FRAME_MEMBERS = ("features", "token_features")  # of an npz in LMDB: of a video, of a sentence


class FeatureSource(Protocol):
    """Key (a video or query id) -> features `[N, D]`, read one at a time."""

    def keys(self) -> list[str]:
        """Every key, sorted."""

    def read(self, key: str) -> np.ndarray:
        """`[N, D]` floats; ValueError that names the key if they are anything else."""

    def identity(self) -> dict:
        """Name and size of the source, for the manifest."""


class Hdf5Features:
    """One HDF5 file with a data set `[N, D]` a key, as MAD's `CLIP_L14_frames_features_5fps.h5`."""

    def __init__(self, path: str | os.PathLike):
        import h5py  # slow to import, needed for this format alone

        self.path = pathlib.Path(path)
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise ValueError(f"{self.path}: cannot be read as HDF5 ({error}); copy the file again") from error
        self._dataset, self._hard_link = h5py.Dataset, h5py.HardLink

    def keys(self) -> list[str]:
        return sorted(self._file)

    def read(self, key: str) -> np.ndarray:
        if not isinstance(self._file.get(key, getlink=True), self._hard_link):
            raise ValueError(f"{self.path}: {key!r} is a link, which may name another file; expected a data set [N, D]")
        node = self._file[key]
        if not isinstance(node, self._dataset):
            raise ValueError(f"{self.path}: {key!r} is a group; expected a data set [N, D]")
        if node.external or node.is_virtual:
            raise ValueError(f"{self.path}: the numbers of {key!r} lie in other files; expected them in this one")
        _check_declared(node.nbytes, f"{self.path}: {key!r}")
        try:
            return _checked(node[()], f"{self.path}: {key!r}")
        except OSError as error:
            raise ValueError(f"{self.path}: {key!r} cannot be read ({error}); copy the file again") from error

    def identity(self) -> dict:
        return {"file": self.path.name, "bytes": self.path.stat().st_size}


# Device and inode of a file -> its environment: a process can open an LMDB only once, and an error that is still
# looked at holds the one that it came from.
_environments: "weakref.WeakValueDictionary[tuple[int, int], Any]" = weakref.WeakValueDictionary()


class LmdbFeatures:
    """An LMDB whose values are npz archives with `features` (videos) or `token_features` (sentences)."""

    def __init__(self, path: str | os.PathLike):
        import lmdb  # needed for this format alone

        self.path = pathlib.Path(path)
        place = self._data_file.stat() if self._data_file.is_file() else None
        shared = _environments.get(place and (place.st_dev, place.st_ino))
        try:
            self._env = shared or lmdb.open(
                str(self.path), subdir=self.path.is_dir(), readonly=True, lock=False, readahead=False
            )
        except lmdb.Error as error:
            raise ValueError(f"{self.path}: cannot be read as LMDB ({error}); copy it again") from error
        if place:
            _environments[place.st_dev, place.st_ino] = self._env

    @property
    def _data_file(self) -> pathlib.Path:
        return self.path / "data.mdb" if self.path.is_dir() else self.path

    def keys(self) -> list[str]:
        with self._env.begin() as transaction:
            return sorted(bytes(key).decode() for key in transaction.cursor().iternext(values=False))

    def read(self, key: str) -> np.ndarray:
        with self._env.begin() as transaction:
            value = transaction.get(key.encode())
        if value is None:
            raise KeyError(key)
        where = f"{self.path}: {key!r}"
        with _not_pickled(where), np.load(io.BytesIO(value), allow_pickle=False) as archive:
            member = next((name for name in FRAME_MEMBERS if name in archive.files), None)
            if member is None:
                raise ValueError(f"holds {sorted(archive.files)}; expected one of {', '.join(FRAME_MEMBERS)}")
            _check_declared(_declared_bytes(archive, f"{member}.npy"), where)
            array = archive[member]
        return _checked(array, where)

    def identity(self) -> dict:
        return {"file": self.path.name, "bytes": self._data_file.stat().st_size}


class NpyFolder:
    """A folder with one `ID.npy` `[N, D]` a video, also in subfolders."""

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self._files: dict[str, pathlib.Path] = {}
        for file in sorted(self.path.rglob("*.npy")):
            if file.stem in self._files:
                raise ValueError(f"{file} and {self._files[file.stem]} have one id; expected a file a video")
            self._files[file.stem] = file

    def keys(self) -> list[str]:
        return sorted(self._files)

    def read(self, key: str) -> np.ndarray:
        with _not_pickled(str(self._files[key])):
            # Mapped first: a header that declares more than the file holds is refused before anything is allocated.
            mapped = np.load(self._files[key], mmap_mode="r", allow_pickle=False)
            return np.array(_checked(mapped, str(self._files[key])))

    def identity(self) -> dict:
        return {"folder": self.path.name, "files": len(self._files)}


@contextlib.contextmanager
def _not_pickled(where: str):
    """Turns NumPy's errors into one that names the file and says what to do."""
    try:
        yield
    except (ValueError, OSError, EOFError) as error:
        pickled = "allow_pickle" in str(error) or "pickle" in str(error).lower()
        reason = "holds pickled objects, which could run code and are refused" if pickled else str(error)
        raise ValueError(f"{where}: {reason}; expected a plain array [N, D] of floats. Export it again") from error


def _declared_bytes(archive: np.lib.npyio.NpzFile, member: str) -> int:
    """Bytes that a member of an npz will take, by its header and by the archive's table."""
    with archive.zip.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return max(math.prod(shape) * dtype.itemsize, archive.zip.getinfo(member).file_size)


def _check_declared(size: int, where: str) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"{where}: declares {size:.3g} bytes; expected at most {MAX_BYTES:.3g} for one video")


def _checked(array: np.ndarray, where: str) -> np.ndarray:
    if array.ndim != 2 or not len(array) or array.dtype.kind != "f":
        raise ValueError(f"{where}: is {array.dtype} {list(array.shape)}; expected floats [N, D], N >= 1")
    return array


def open_features(path: str | os.PathLike) -> FeatureSource:
    """The features at a path, by what is there: `.h5`/`.hdf5`, an LMDB (a file or a folder), a folder of `.npy`.

    Raises:
      ValueError, FileNotFoundError: nothing that can be read so.
    """
    path = pathlib.Path(path)
    if path.suffix in (".h5", ".hdf5") and path.is_file():
        return Hdf5Features(path)
    if (path / "data.mdb").is_file() or (path.is_file() and path.suffix in (".mdb", ".lmdb")):
        return LmdbFeatures(path)
    if path.is_dir() and next(path.rglob("*.npy"), None):
        return NpyFolder(path)
    expected = "a file .h5, an LMDB (folder with data.mdb), or a folder with .npy files"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; expected {expected}")
    raise ValueError(f"{path}: not features in a known form; expected {expected}")
