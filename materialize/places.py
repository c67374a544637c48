"""Where files are: on this machine or in S3, listed, opened and told apart in one way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from featurestore.definitions.sources import FileSource
from featurestore.errors import SourceError
from featurestore.materialize.s3 import S3Settings

_LOCAL = fs.LocalFileSystem()
_HEADS_AT_ONCE = 16
# Folders that such jobs have only while they write.
_STAGING = ("_temporary", ".spark-staging", ".hive-staging")


@dataclass(frozen=True, slots=True)
class Place:
    """A path or URL: of a file, a folder or a glob.

    Attributes
    ----------
    files
        The file system.
    path
        The path in it.
    shown
        How people know it.
    s3
        How its bucket is reached; None on this machine.
    """

    files: fs.FileSystem
    path: str
    shown: str
    s3: S3Settings | None = None

    def __str__(self) -> str:
        return self.shown

    @property
    def name(self) -> str:
        """The last part of the path, in lower case."""
        return self.path.rpartition("/")[2].lower()

    @property
    def kind(self) -> fs.FileType:
        """What is there."""
        return self.files.get_file_info(self.path).type

    def below(self, path: str) -> Place:
        """Return the place of a path in the same file system, which starts with this one's fixed part."""
        shown = f"s3://{path}" if self.s3 is not None else path
        return replace(self, path=path, shown=shown)

    @contextmanager
    def opened(self) -> Iterator[pa.NativeFile]:
        """Open the file, to be read anywhere."""
        with self.files.open_input_file(self.path) as file:
            yield file

    def stream(self) -> pa.NativeFile:
        """Open the file, to be read from start to end; what is compressed by its name is unpacked."""
        return self.files.open_input_stream(self.path, compression="detect")

    def stamp(self) -> str:
        """Return a text that differs once the file was written to, or replaced by another.

        Raises
        ------
        OSError
            Where it is not there any more.
        """
        if self.s3 is None:
            stat = Path(self.path).stat()
            return f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
        with self.opened() as file:
            return str(file.metadata()["ETag"])


def locate(source: FileSource, repo_path: Path, settings: Mapping[str, Any]) -> Place:
    """Return the place that a file source names.

    Raises
    ------
    SourceError
        Where it is neither on this machine nor in S3, or S3 cannot be reached with these settings.
    """
    label = f"FileSource {source.name!r}"
    scheme, separator, rest = source.path.partition("://")
    if not separator:
        path = str(repo_path / Path(source.path).expanduser())
        return Place(_LOCAL, path, path)
    if scheme != "s3":
        raise SourceError(f"{label}: {source.path!r} is neither a path on this machine nor s3://bucket/key")
    s3 = S3Settings.of(label, source.connection, settings)
    return Place(s3.filesystem(), rest.rstrip("/"), source.path, s3)


def listed(place: Place) -> list[Place]:
    """Return the files at a place, sorted: itself, all below a folder, or what a glob matches; never hidden ones.

    Raises
    ------
    SourceError
        Where a job is writing there: what it has written so far would look like all there is.
    OSError
        Where it cannot be listed.
    """
    found = _local(Path(place.path)) if place.s3 is None else _remote(place)
    inner = [(path, path.removeprefix(place.path)) for path in found]
    writing = next((path for path, rest in inner if any(part.startswith(_STAGING) for part in rest.split("/"))), None)
    if writing is not None:
        raise SourceError(
            f"{place} is being written by a job of Spark or Hive, see {writing}: read it when that is done; where it "
            "was given up, write the data anew and remove that folder"
        )
    in_folder = place.kind is fs.FileType.Directory
    return [
        place.below(path)
        for path, rest in inner
        if not path.endswith("/") and not _hidden(rest if in_folder else path, in_folder)
    ]


def stamps(places: Sequence[Place]) -> list[str]:
    """Return the stamp of each file."""
    if not places or places[0].s3 is None:
        return [place.stamp() for place in places]
    with ThreadPoolExecutor(_HEADS_AT_ONCE) as pool:
        return list(pool.map(Place.stamp, places))


def _local(path: Path) -> list[str]:
    if path.is_file():
        return [str(path)]
    base = path if path.is_dir() else Path(path.anchor)
    matches = base.rglob("*") if path.is_dir() else base.glob(str(path.relative_to(base)))
    # Empty folders too: those that tell of a job that writes.
    return sorted(str(file) if file.is_file() else f"{file}/" for file in matches)


def _remote(place: Place) -> list[str]:
    kind = place.kind
    if kind is fs.FileType.File:
        return [place.path]
    if kind is fs.FileType.Directory:
        return _below(place, place.path)
    parts = place.path.split("/")
    fixed = next((count for count, part in enumerate(parts) if any(sign in part for sign in "*?[")), 0)
    if not fixed:
        return []
    found = _below(place, "/".join(parts[:fixed]))
    return [path for path in found if _matches(path.split("/")[fixed:], parts[fixed:])]


def _below(place: Place, base: str) -> list[str]:
    selector = fs.FileSelector(base, recursive=True, allow_not_found=True)
    return sorted(info.path for info in place.files.get_file_info(selector) if info.type is fs.FileType.File)


def _matches(parts: list[str], patterns: list[str]) -> bool:
    """Return whether a path matches a glob, part by part; ``**`` stands for any number of folders."""
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_matches(parts[skip:], patterns[1:]) for skip in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], patterns[0]) and _matches(parts[1:], patterns[1:])


def _hidden(path: str, in_folder: bool) -> bool:
    """Return whether a file is none of the data: in a folder by any part of its path, in a glob by its own name."""
    parts = path.strip("/").split("/")
    return any(part.startswith((".", "_")) for part in parts) if in_folder else parts[-1].startswith(".")
