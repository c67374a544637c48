"""The whole path on real flights: definitions, batch, stream, online lookups, training set, and the proof.

What happened before the hand-over is materialized from files. The rest of the year is replayed as streams under
a simulated clock, which stops at some 300 busy minutes to look features up online for the flights due off then,
as a model server would. Then every value served is recomputed offline, for the time its answer states, and
compared bit by bit.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore.clock import ManualClock
from featurestore.config import load_config
from featurestore.errors import RepositoryError
from featurestore.store import FeatureStore

if TYPE_CHECKING:
    from examples.flights import check, fault, prepare, sample, story
    from examples.flights.hive import load
else:

    def _sibling(name: str) -> Any:
        """Import a file of this folder, which is no package: the demo is run by its path."""
        module = f"{__name__}_{name.replace('/', '_')}"
        spec = importlib.util.spec_from_file_location(module, Path(__file__).parent / f"{name}.py")
        sys.modules[module] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[module])
        return sys.modules[module]

    names = ("check", "fault", "prepare", "sample", "story", "hive/load")
    check, fault, prepare, sample, story, load = map(_sibling, names)

SERVICE = "delay_model"
REFERENCE_VALUES = 2_000
FIRST_STOP = prepare.HANDOVER + timedelta(hours=6)
END = datetime(2014, 1, 2, tzinfo=UTC)

Progress = Callable[[str, int, int | None], None]


class Demo:
    """One run: its store, what was served, and what was measured.

    Attributes
    ----------
    result
        What ``--json`` prints.
    """

    def __init__(
        self, folder: Path, tell: story.Story, progress: Progress, days: int | None = None, *, hive: bool = False
    ) -> None:
        self.folder = folder
        self.hive = hive
        self.end = END if days is None else prepare.HANDOVER + timedelta(days=days)
        self.tell = tell
        self.progress = progress
        self.clock = ManualClock(prepare.PLANES_AS_OF)
        self.served = check.Served()
        self.result: dict[str, Any] = {"seconds": {}}
        self.store: FeatureStore
        self.flights: pa.Table

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage; several stretches of one stage add up."""
        started = time.perf_counter()
        yield
        seconds = self.result["seconds"]
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started

    def run(self, *, inject_bug: bool) -> int:
        """Run all stages and return the number of served values that are not proven."""
        self.prepare()
        self.apply()
        with closing(self.store):
            self.materialize()
            stops = sample.Stops(self.flights, FIRST_STOP, self.end)
            if inject_bug:
                self.inject_bug(stops)
            self.replay(stops)
            self.train()
            return self.verify()

    def prepare(self) -> None:
        """Build the project: its definitions are this folder's, its data comes from the package."""
        self.progress("preparing the data", 0, None)
        with self.stage("prepare"):
            write_project(self.folder, hive=self.hive)
            counts = prepare.prepare(self.folder / "data")
            if self.hive:
                self.progress("loading the batch files into Hive", 0, None)
                load.load(self.folder / "data", load_config(self.folder).connection("hive"))
            flights = pq.read_table(self.folder / "data" / "flights.parquet")
            self.flights = flights.filter(pc.less(flights["event_timestamp"], pa.scalar(self.end)))
        self.tell.prepared(counts, self.result["seconds"]["prepare"])

    def apply(self) -> None:
        """Put the definitions into the registry."""
        with self.stage("apply"):
            self.store = FeatureStore(repo_path=self.folder, clock=self.clock)
            self.store.apply()
        self.tell.applied(self.store.project, self.result["seconds"]["apply"])

    def materialize(self) -> None:
        """Load what happened before the hand-over from the batch files, offline and online.

        The clock stands before the first flight meanwhile, so that the batch rows count from their own arrivals on, as
        if the store had been fed all the year. Loaded by a later clock, they would be known only from then on, and
        the flights before it would have no features with ``known_at="arrival"``.
        """
        self.progress("materializing the batch files", 0, None)
        with self.stage("materialize"):
            jobs = self.store.materialize(prepare.PLANES_AS_OF, prepare.HANDOVER)
        self.result["rows_materialized"] = sum(job.rows for job in jobs)
        self.tell.materialized(self.result["rows_materialized"], self.result["seconds"]["materialize"])

    def replay(self, stops: sample.Stops) -> None:
        """Replay the streams under the clock; at each stop, look up the flights scheduled for that minute."""
        service = self.store.project.service(SERVICE)
        features = [name for projection in service.projections for name in projection.features]
        events = 0
        for number, moment in enumerate(stops.moments):
            self.progress("replaying the streams", number, len(stops.moments))
            self.clock.set(moment)
            with self.stage("replay"):
                events += self.store.stream(until=moment).events
            rows = stops.requests(moment)
            with self.stage("lookup"):
                response = self.store.get_online_features(features=service, entity_rows=rows, now=moment)
            self.served.add(rows, features, response)
        self.clock.set(self.end)
        with self.stage("replay"):
            events += self.store.stream(until=self.end).events
        self.result |= {
            "events_replayed": events,
            "lookups": len(stops.moments),
            "served_vectors": len(self.served.rows),
            "served_values": self.served.cells,
        }
        self.tell.replayed(self.result)
        flight, vector = self._example(stops)
        self.tell.sample(service, flight, {name: self.served.results[name][vector].value for name in features})

    def _example(self, stops: sample.Stops) -> tuple[dict[str, Any], int]:
        """Return the flight that arrived latest of those with a known aircraft, and the number of its vector."""
        numbers = [number for moment in stops.moments for number in stops.flights(moment)]
        delays = self.flights["arr_delay"].take(pa.array(numbers)).to_pylist()
        known = [place for place, seats in enumerate(self.served.results["seats"]) if seats.value is not None]
        vector = max(known, key=lambda place: delays[place] or 0)
        return self.flights.slice(numbers[vector], 1).to_pylist()[0], vector

    def train(self) -> None:
        """Build the training set: every flight, as of its scheduled departure, with what was known by then."""
        self.progress("building the training set", 0, None)
        with self.stage("train"):
            job = self.store.get_historical_features(
                entity_df=self.flights, features=self.store.project.service(SERVICE), known_at="arrival"
            )
            table = job.to_arrow()
        self.result["training_rows"] = table.num_rows
        self.tell.trained(table, self.result["seconds"]["train"])

    def verify(self) -> int:
        """Recompute every served value offline, and some with the reference; say what differs."""
        checker = check.Checker(self.store, self.store.project.service(SERVICE), self.served)
        self.progress("verifying every served value", 0, None)
        with self.stage("verify"):
            compared = checker.against_offline()
        with self.stage("reference"):
            by_reference = checker.against_reference(REFERENCE_VALUES)
        with self.stage("late_data"):
            late = checker.changed_by_late_data()
        differences = list(checker.differences.values())
        self.result |= {
            "verified_values": compared,
            "reference_values": by_reference,
            "changed_by_late_data": late,
            "mismatches": len(differences),
            "differences": [difference._asdict() for difference in differences],
        }
        self.tell.verdict(self.result)
        return len(differences)

    def inject_bug(self, stops: sample.Stops) -> None:
        """Flip one bit of one stored value: the year in which an aircraft that is asked for once was built."""
        planes = pq.read_table(self.folder / "data" / "planes.parquet")
        built = dict(zip(planes["tailnum"].to_pylist(), planes["built"].to_pylist(), strict=True))
        tailnum = next(name for name in stops.asked_once() if built.get(name) is not None)
        fault.flip_stored_value(self.store.online_view("plane"), (tailnum,), "built")


def write_project(folder: Path, *, hive: bool = False) -> None:
    """Put the definitions and the configuration into a folder: those with histories in files, or in Hive."""
    here = Path(__file__).parent
    place = here / "hive" if hive else here
    shutil.copy(here / "features.py", folder)
    shutil.copy(place / "sources.py", folder)
    text = (place / "feature_store.yaml").read_text()
    (folder / "feature_store.yaml").write_text(text.replace("${FLIGHTS_HIVE}", str(folder.absolute() / "hive")))


def main(
    json: bool = False,
    inject_bug: bool = False,
    keep: Path | None = None,
    progress: Progress | None = None,
    *,
    days: int | None = None,
    hive: bool = False,
) -> int:
    """Run the demo; return 0 if every served value is proven, else 1.

    Parameters
    ----------
    json
        Print the figures as JSON, and nothing else.
    inject_bug
        Flip one stored value before the replay, to see that verification finds it.
    keep
        A new or empty folder for the project, which stays there; by default a temporary one.
    progress
        Called with a step, how far it is and its end (None: not known).
    days
        Replay only so many days of the streams, and train on the flights until then; by default all the year.
    hive
        Load the batch files into Hive tables first, and read those.
    """
    if keep is not None and keep.exists() and any(keep.iterdir()):
        raise RepositoryError(f"{keep} is not empty; give the demo a new folder, or remove that one")
    started = time.perf_counter()
    place = tempfile.TemporaryDirectory(prefix="flights-") if keep is None else nullcontext(str(keep))
    with place as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        demo = Demo(Path(folder), story.Story(quiet=json), progress or _silent, days, hive=hive)
        mismatches = demo.run(inject_bug=inject_bug)
        demo.result["seconds"]["total"] = total = time.perf_counter() - started
        demo.tell.end(total)
    if json:
        print(msgspec.json.format(msgspec.json.encode(demo.result), indent=2).decode())
    return 1 if mismatches else 0


def _silent(_step: str, _done: int, _total: int | None) -> None:
    """Report nothing."""
