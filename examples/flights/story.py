"""What the flights demo tells a person: a line for each stage, one flight's features, and the verdict."""

from __future__ import annotations

import textwrap
from typing import Any

import pyarrow as pa

from featurestore.definitions import FeatureService, Project

_GLUE = "\u00a0"
"""A space at which no line breaks."""


class Story:
    """Prints the story, or nothing where ``quiet``."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def say(self, text: str = "") -> None:
        """Print one line."""
        if not self._quiet:
            print(text, flush=True)

    def _line(self, what: str, text: str, seconds: float | None = None) -> None:
        took = "" if seconds is None else f"{seconds:7.1f} s"
        self.say(f"{what:<12} {text:<86}{took}".rstrip())

    def prepared(self, counts: dict[str, int], seconds: float) -> None:
        """Tell what the data are."""
        stream = sum(rows for name, rows in counts.items() if name.endswith(".jsonl"))
        self.say("Flights from New York in 2013: how late will each arrive, as far as one can know when it is due off?")
        self.say()
        self._line("Data", f"{counts['flights.parquet']:,} flights; {stream:,} events wait in streams", seconds)

    def applied(self, project: Project, seconds: float) -> None:
        """Tell what was defined."""
        views = project.views_of_any_kind
        features = sum(len(view.features) for view in views.values())
        self._line("Definitions", f"{len(views)} feature views with {features} features, in the registry", seconds)

    def materialized(self, rows: int, seconds: float) -> None:
        """Tell what was loaded."""
        text = f"{rows:,} rows of history, offline and online; {_rate(rows, seconds)} rows/s"
        self._line("Batch", text, seconds)

    def replayed(self, result: dict[str, Any]) -> None:
        """Tell what was replayed and served."""
        seconds, events = result["seconds"], result["events_replayed"]
        text = f"{events:,} events, in the order they were received; {_rate(events, seconds['replay'])} events/s"
        self._line("Stream", text, seconds["replay"])
        text = f"{result['served_vectors']:,} flights in {result['lookups']:,} requests, each at its moment; "
        text += f"{1000 * seconds['lookup'] / result['lookups']:.1f} ms a request"
        self._line("Online", text, seconds["lookup"])

    def trained(self, table: pa.Table, seconds: float) -> None:
        """Tell what the training set is."""
        rows = table.num_rows
        text = f"{rows:,} rows of {table.num_columns} columns, as of departure; {_rate(rows, seconds)} rows/s"
        self._line("Training set", text, seconds)

    def sample(self, service: FeatureService, flight: dict[str, Any], values: dict[str, Any]) -> None:
        """Show the vector that was served for one flight."""
        self.say()
        self.say(
            f"One of them: {flight['carrier']} {flight['flight']} from {flight['origin']} to {flight['dest']}, "
            f"aircraft {flight['tailnum']}, due off {flight['event_timestamp']:%d %B %H:%M} UTC"
        )
        for projection in service.projections:
            shown = "  ".join(f"{name}{_GLUE}{_show(values[name])}" for name in projection.features)
            lines = textwrap.wrap(shown, 90, break_long_words=False, break_on_hyphens=False)
            for number, line in enumerate(lines):
                self.say(f"  {projection.view if number == 0 else '':<16}{line.replace(_GLUE, ' ')}")
        self.say(f"  {'label':<16}arr_delay {flight['arr_delay']}, known only after the landing")
        self.say()

    def verdict(self, result: dict[str, Any]) -> None:
        """Tell what was proven."""
        seconds, wrong = result["seconds"], result["mismatches"]
        served, compared = result["served_values"], result["verified_values"]
        self._line("Proof", f"{compared:,} of {served:,} served values recomputed offline", seconds["verify"])
        text = f"{result['reference_values']:,} of them evaluated by the reference interpreter"
        self._line("Reference", text, seconds["reference"])
        late = result["changed_by_late_data"]
        text = f"{late:,} values ({late / served:.0%}) would be others, had all been known when it happened"
        self._line("Late data", text, seconds["late_data"])
        self.say()
        for found in result["differences"]:
            key = ", ".join(f"{name}={value}" for name, value in found["key"].items())
            self.say(f"  {found['view']}.{found['feature']} of {key} at {found['evaluated_at']}:")
            self.say(f"    served {_told(found, 'served')}, {found['found_by']} says {_told(found, 'expected')}")
        if wrong:
            those = "1 is" if wrong == 1 else f"{wrong:,} are"
            self.say(f"Verdict: of {served:,} values served online, {those} not what training would have seen.")
        else:
            self.say(f"Verdict: all {served:,} values served online are, to the bit, what training would have seen.")

    def end(self, seconds: float) -> None:
        """Tell how long it all took."""
        self.say(f"{seconds:.0f} s in all.")


def _rate(number: int, seconds: float) -> str:
    return f"{number / seconds:,.0f}" if seconds else "-"


def _show(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace(" ", "")


def _told(found: dict[str, Any], which: str) -> str:
    return f"{found[which]!r} ({found[f'{which}_status']})"
