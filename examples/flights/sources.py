"""Where the flights come from: each feed has a history in a Parquet file and goes on as a stream of the same events."""

from __future__ import annotations

from datetime import timedelta

from featurestore import FileSource, FileStreamSource

departures = FileStreamSource(
    "departures",
    path="data/departures.jsonl",
    batch_source=FileSource("departures_history", path="data/departures.parquet", timestamp_field="departed_at"),
)
arrivals = FileStreamSource(
    "arrivals",
    path="data/arrivals.jsonl",
    arrival_field="received_at",
    batch_source=FileSource(
        "arrivals_history",
        path="data/arrivals.parquet",
        timestamp_field="landed_at",
        created_timestamp_column="received_at",
    ),
    description="Received two minutes after landing; one in a hundred three hours after it.",
)
observations = FileStreamSource(
    "observations",
    path="data/weather.jsonl",
    availability_delay=timedelta(hours=1),
    batch_source=FileSource(
        "observations_history",
        path="data/weather.parquet",
        timestamp_field="observed_at",
        availability_delay=timedelta(hours=1),
    ),
    description="An hour's weather is known when the hour is over.",
)
register = FileSource("register", path="data/planes.parquet", timestamp_field="as_of")
