"""A job's folder: its plan, the chunks it has read and its ranked rows, so that another process can go on with it.

Whatever has its name there is whole, because it got it by a rename. The folder itself is named after the lease that it
is worked on under: whoever takes a job over renames it, and then a former holder's writes find nothing to write to.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pyarrow as pa

from featurestore.errors import OfflineStoreError
from featurestore.materialize.lease import Lease

UNVERSIONED_MICROS = 24 * 3600 * 1_000_000
"""How long chunks of a source that tells no version may be used by a job that goes on, in microseconds."""
_UNFINISHED = ".new"


class JobPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a job is to do, as of when it began.

    Attributes
    ----------
    start, end
        Its range of event times in microseconds, half-open.
    now
        When it, or its incremental run, started by the store's clock.
    made
        When it was planned by the wall clock.
    max_future_skew
        The setting that it reads with.
    source_version
        What the source said of its version; None where it says nothing.
    run_version
        The same, as its incremental run began.
    rest
        The ranges of its incremental run that come after it; None where it is none's.
    """

    start: int
    end: int
    now: int
    made: int
    max_future_skew: int
    source_version: str | None
    run_version: str | None
    rest: tuple[tuple[int, int], ...] | None = None

    def fits(self, source_version: str | None, max_future_skew: int, wall: int) -> bool:
        """Return whether what was read under it is still what would be read."""
        if max_future_skew != self.max_future_skew or source_version != self.source_version:
            return False
        return source_version is not None or wall - self.made < UNVERSIONED_MICROS


class DoneChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the range that has been read: its bounds, and how many rows and other records it gave."""

    start: int
    end: int
    rows: int
    rejected: int
    dropped: int


class JobFolder:
    """The folder of one job."""

    def __init__(self, path: Path, lease: Lease) -> None:
        self.path = path
        self._lease = lease

    @property
    def ranked(self) -> Path:
        """Where the ranked rows are, once all chunks have been read."""
        return self.path / "ranked.parquet"

    def plan(self) -> JobPlan | None:
        """Return the plan, or None where the job died before it was written."""
        try:
            return msgspec.json.decode(self.path.joinpath("plan.json").read_bytes(), type=JobPlan)
        except (OSError, msgspec.DecodeError):
            return None

    def chunks(self) -> list[DoneChunk]:
        """Return the chunks that have been read, in order, up to the first that is missing or damaged."""
        found: list[DoneChunk] = []
        while True:
            try:
                text = self.chunk_path(len(found), "chunk.json").read_bytes()
                found.append(msgspec.json.decode(text, type=DoneChunk))
            except (OSError, msgspec.DecodeError):
                return found

    def chunk_path(self, number: int, file: str) -> Path:
        """Return where a file of a chunk is."""
        return self.path / f"chunk-{number:05d}" / file

    def put_plan(self, plan: JobPlan) -> None:
        """Write the plan."""
        with self.new("plan.json") as path:
            path.write_bytes(msgspec.json.encode(plan))

    @contextmanager
    def new(self, name: str) -> Iterator[Path]:
        """Give a path to make a file or folder at, and its name to what was made, unless the caller fails.

        Raises
        ------
        LeaseLostError
            Where another process goes on with the job.
        OfflineStoreError
            Where it cannot be written.
        """
        path = self.path / f"{name}{_UNFINISHED}"
        with self.errors():
            _remove(path)
            yield path
            _sync(path)
            if self.path.joinpath(name).is_dir():  # damaged, or it would not be made again
                _remove(self.path / name)
            path.replace(self.path / name)
            _sync(self.path)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn errors of the file system into our own."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            self._lease.check()  # the folder goes when the lease does
            raise OfflineStoreError(
                f"{self.path} cannot be written or read, which a job needs; nothing was changed: {error}"
            ) from error

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)


class Spool:
    """The folders of the jobs of one log.

    Parameters
    ----------
    root
        The offline store's folder.
    log
        The log's row fingerprint.
    lease
        The lease under which the jobs run.
    """

    def __init__(self, root: Path, log: str, lease: Lease) -> None:
        self._path = root / "spool" / log
        self._lease = lease

    def create(self, number: int, plan: JobPlan) -> JobFolder:
        """Make the folder of a new job."""
        folder = self._folder(number)
        with folder.errors():
            folder.path.mkdir(parents=True)
        folder.put_plan(plan)
        return folder

    def adopt(self, number: int) -> JobFolder | None:
        """Take over the folder of a job that was cut off; None where there is none."""
        folder = self._folder(number)
        found = [path for path in self._folders() if _number(path) == number and path != folder.path]
        with folder.errors():
            for path in sorted(found, key=_token, reverse=True)[:1]:
                path.replace(folder.path)
            return folder if folder.path.is_dir() else None

    def clean(self, unfinished: Collection[int], known: Collection[int], through: int) -> None:
        """Remove what no job needs any more.

        Parameters
        ----------
        unfinished, known
            The numbers of this project's jobs, those that may go on and all.
        through
            The last job that the log holds: also of another project's, none up to it can still be committed.
        """
        for path in self._folders():
            number = _number(path)
            if number not in unfinished and (number in known or number <= through):
                shutil.rmtree(path, ignore_errors=True)

    def _folder(self, number: int) -> JobFolder:
        return JobFolder(self._path / f"{number}-{self._lease.token}", self._lease)

    def _folders(self) -> list[Path]:
        return [path for path in self._path.glob("*") if path.is_dir()]


def _number(path: Path) -> int:
    number = path.name.partition("-")[0]
    return int(number) if number.isdecimal() else -1


def _token(path: Path) -> int:
    token = path.name.partition("-")[2]
    return int(token) if token.isdecimal() else -1


def _sync(path: Path) -> None:
    """Bring a file, or a folder and the files in it, onto the disk."""
    for each in [*(path.iterdir() if path.is_dir() else ()), path]:
        if each.is_dir() and each != path:
            continue
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
