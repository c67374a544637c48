"""The file source: lines as records, positions that survive, and files that are not what they were."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from featurestore.definitions import FileStreamSource
from featurestore.errors import SourceError
from featurestore.online.lmdb import LmdbStore
from featurestore.semantics.windows import MINUTE
from featurestore.streaming import lines
from featurestore.streaming.apply import Loop
from featurestore.streaming.file import FileReader
from tests.unit.streaming_bench import FILE, NOON, Bench, Crash, Stream, crash_at, eventful, trip

W = "file/trips/trips.jsonl"
Open = Callable[..., FileReader]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trips.jsonl"


@pytest.fixture
def reader(tmp_path: Path, path: Path) -> Iterator[Open]:
    with ExitStack() as opened:

        def make(source: FileStreamSource = FILE, **options: Any) -> FileReader:
            made = FileReader(source, path, tmp_path / "state", **options)
            opened.callback(made.close)
            return made

        yield make


def write(path: Path, *texts: str, end: str = "\n") -> None:
    path.write_text("\n".join(texts) + end)


def numbers(reader: FileReader, limit: int = 100, until: int | None = None) -> list[int]:
    return [record.sequence for record in reader.poll(limit, until)]


def timed(minute: int) -> str:
    return json.dumps({**trip(1, minute, 1.0), "at": trip(1, minute, 1.0)["ts"]})


def test_lines_are_records_numbered_from_zero(path: Path, reader: Open) -> None:
    write(path, timed(0), timed(1))
    first, second = reader().poll(10)
    assert (first.writer, first.sequence, first.arrival) == (W, 0, NOON)
    assert json.loads(first.payload)["km"] == 1.0
    assert (second.sequence, second.arrival) == (1, NOON + MINUTE)


def test_blank_lines_count_but_are_no_records(path: Path, reader: Open) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + timed(0).encode() + b"\r\n\n  \r\n" + timed(1).encode() + b"\n")
    records = reader().poll(10)
    assert [record.sequence for record in records] == [0, 3]
    assert records[0].arrival == NOON


def test_poll_stops_before_what_is_not_due(path: Path, reader: Open) -> None:
    write(path, timed(0), "{ not json", timed(5), timed(2), timed(6))
    stream = reader()
    assert numbers(stream, until=NOON - 1) == []
    assert numbers(stream, until=NOON + MINUTE) == [0, 1]  # what has no readable arrival does not wait
    assert numbers(stream, until=NOON + 4 * MINUTE) == []  # order is kept: 3 is behind 2
    assert numbers(stream, until=NOON + 5 * MINUTE) == [2, 3]
    assert not stream.exhausted
    assert numbers(stream) == [4]
    assert stream.exhausted


def test_without_an_arrival_field_a_record_is_due_after_the_delay(path: Path, reader: Open) -> None:
    source = FileStreamSource("trips", path="x", timestamp_field="ts", availability_delay=timedelta(minutes=3))
    write(path, timed(0), timed(1))
    stream = reader(source)
    assert numbers(stream, until=NOON + 3 * MINUTE - 1) == []
    (record,) = stream.poll(10, NOON + 3 * MINUTE)
    assert record.arrival is None  # the apply loop works it out, after the transform


@pytest.mark.parametrize(
    "arrival", ["", '"at": 5,', '"at": null,', '"at": "soon",', '"at": "9999-12-31T23:59:59-01:00",']
)
def test_an_unreadable_arrival_is_none(path: Path, reader: Open, arrival: str) -> None:
    write(path, "{" + arrival + '"x": 1}')
    (record,) = reader().poll(10, until=0)
    assert record.arrival is None


def test_an_unfinished_last_line_waits_until_it_is_whole(path: Path, reader: Open) -> None:
    write(path, timed(0), timed(1)[:20], end="")
    stream = reader()
    assert numbers(stream) == [0]
    assert stream.exhausted
    with path.open("a") as file:
        file.write(timed(1)[20:])
        file.flush()
        assert numbers(stream) == []
        file.write("\n" + timed(2) + "\n")
    records = stream.poll(10)
    assert [(record.sequence, record.arrival) for record in records] == [(1, NOON + MINUTE), (2, NOON + 2 * MINUTE)]


def test_the_last_line_of_a_final_file_needs_no_newline(path: Path, reader: Open) -> None:
    write(path, timed(0), timed(1), end="")
    stream = reader(final=True)
    assert numbers(stream) == [0, 1]
    stream.commit({W: 1})
    with path.open("a") as file:
        file.write("\n" + timed(2) + "\n")
    assert numbers(stream) == [2]
    again = reader()
    again.seek({W: 1})
    assert numbers(again) == [2]


def test_a_final_line_that_goes_on_is_an_error(path: Path, reader: Open) -> None:
    write(path, timed(0), end="")
    stream = reader(final=True)
    assert numbers(stream) == [0]
    stream.commit({W: 0})
    with path.open("a") as file:
        file.write("more\n")
    with pytest.raises(SourceError, match="line 1 was read as complete and has been continued"):
        stream.poll(1)
    again = reader()
    again.seek({W: 0})
    with pytest.raises(SourceError, match="has been continued"):
        again.poll(1)


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("committed", [None, 0, 3, 8])
def test_seek_resumes_after_the_position_wherever_the_committed_one_is(
    path: Path, reader: Open, monkeypatch: pytest.MonkeyPatch, committed: int | None, block: int
) -> None:
    monkeypatch.setattr(lines, "_BLOCK", block)
    write(path, *(timed(minute) for minute in range(10)))
    if committed is not None:
        first = reader()
        first.poll(10)
        first.commit({W: committed})
    for position in (-1, 0, 3, 4, 8, 9):
        stream = reader()
        stream.seek({W: position})
        records = stream.poll(100)
        assert [record.sequence for record in records] == list(range(position + 1, 10))
        assert [record.arrival for record in records] == [NOON + n * MINUTE for n in range(position + 1, 10)]


def test_the_committed_position_saves_reading_from_the_start(path: Path, reader: Open) -> None:
    write(path, *(timed(minute) for minute in range(5)))
    first = reader()
    first.poll(4)
    first.commit({W: 3})
    stream = reader()
    stream.seek({W: 3})
    assert numbers(stream) == [4]
    assert stream._lines.consumed == path.stat().st_size
    assert stream._committed is not None
    assert stream._committed.offset == len(timed(0)) * 4 + 4


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 4],
        lambda text: text.replace("1.0", "2.0", 1),
        lambda text: "\n" + text,
        lambda text: "",
    ],
    ids=["cut", "changed", "shifted", "emptied"],
)
def test_a_file_that_is_not_what_was_read_is_an_error(path: Path, reader: Open, spoil: Callable[[str], str]) -> None:
    write(path, *(timed(minute) for minute in range(10)))
    first = reader()
    first.poll(8)
    first.commit({W: 7})
    path.write_text(spoil(path.read_text()))
    with pytest.raises(SourceError, match=r"trips.jsonl is not the file that was read up to line 8\. Put the former"):
        reader().seek({W: 7})


def test_a_file_shorter_than_the_log_knows_is_an_error(path: Path, reader: Open) -> None:
    write(path, timed(0), timed(1))
    with pytest.raises(SourceError, match="ends before line 3"):
        reader().seek({W: 2})
    stream = reader()
    stream.seek({W: 1})
    assert stream.exhausted


@pytest.mark.parametrize("how", ["cut", "replaced", "removed"])
def test_a_file_that_changes_while_it_is_read_is_an_error(path: Path, reader: Open, how: str) -> None:
    write(path, timed(0), timed(1))
    stream = reader()
    assert numbers(stream) == [0, 1]
    if how == "cut":
        path.write_text("")
    else:
        path.rename(path.with_suffix(".old"))
    if how == "replaced":
        write(path, timed(5))
    with pytest.raises(SourceError, match="cannot be read" if how == "removed" else "was cut or replaced"):
        stream.poll(1)


def test_a_missing_file_is_an_error(reader: Open) -> None:
    with pytest.raises(SourceError, match=r"FileStreamSource 'trips': .*trips.jsonl cannot be read \(No such file"):
        reader()


def test_a_spoiled_position_file_says_that_it_can_go(tmp_path: Path, path: Path, reader: Open) -> None:
    write(path, timed(0))
    stream = reader()
    stream.poll(1)
    stream.commit({W: 0})
    (position,) = (tmp_path / "state").iterdir()
    position.write_bytes(b"{")
    with pytest.raises(SourceError, match="delete it"):
        reader()


def test_commit_never_goes_beyond_what_was_delivered(path: Path, reader: Open) -> None:
    write(path, *(timed(minute) for minute in range(5)))
    stream = reader()
    stream.poll(2)
    stream.commit({W: 100})
    assert stream._committed is not None
    assert stream._committed.sequence == 1
    stream.commit({"other": 5})
    stream.commit({W: 0})
    assert stream._committed.sequence == 1


def lines_of_events() -> list[str]:
    texts = []
    for record in eventful():
        try:
            fields = json.loads(record.payload)
        except ValueError:
            fields = None
        assert record.arrival is not None
        if isinstance(fields, dict):
            minute = (record.arrival - NOON) // MINUTE
            texts.append(json.dumps({**fields, "at": trip(1, minute, 0)["ts"]}))
        else:
            texts.append(record.payload.decode())
    return texts


@pytest.mark.parametrize("steps", [1, 3])
def test_a_file_replayed_with_crashes_ends_like_an_undisturbed_stream(
    tmp_path: Path, path: Path, reader: Open, steps: int
) -> None:
    write(path, *lines_of_events())
    bench = Bench(tmp_path / "stores", store=LmdbStore(tmp_path / "online"))
    for step in ("logged", "online:recent", "committed"):
        with pytest.raises(Crash):
            Loop(reader(), bench.applier(crash_at(step, steps)), limit=2).run()
    for minute in range(12):
        Loop(reader(), bench.applier()).run(until=NOON + minute * MINUTE)
    undisturbed = Bench(tmp_path / "undisturbed")
    records = [record._replace(writer=W) for record in eventful()]
    Loop(Stream(records), undisturbed.applier()).run()
    ours, theirs = bench.outcome(), undisturbed.outcome()
    assert ours["online"] == theirs["online"]
    assert ours["letters"] == theirs["letters"]
    assert ours["log"] == theirs["log"]
