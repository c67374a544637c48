"""Where the flights come from, with each feed's history in Hive: a job reads the partitions of its days alone."""

from __future__ import annotations

from datetime import timedelta

from featurestore import FileStreamSource, HiveSource

departures = FileStreamSource(
    "departures",
    path="data/departures.jsonl",
    batch_source=HiveSource(
        "departures_history",
        connection="hive",
        table="flights.departures",
        timestamp_field="departed_at",
        partition_column="day",
    ),
)
arrivals = FileStreamSource(
    "arrivals",
    path="data/arrivals.jsonl",
    arrival_field="received_at",
    batch_source=HiveSource(
        "arrivals_history",
        connection="hive",
        table="flights.arrivals",
        partition_column="day",
        timestamp_field="landed_at",
        created_timestamp_column="received_at",
    ),
    description="Received two minutes after landing; one in a hundred three hours after it.",
)
observations = FileStreamSource(
    "observations",
    path="data/weather.jsonl",
    availability_delay=timedelta(hours=1),
    batch_source=HiveSource(
        "observations_history",
        connection="hive",
        table="flights.weather",
        partition_column="day",
        timestamp_field="observed_at",
        availability_delay=timedelta(hours=1),
    ),
    description="An hour's weather is known when the hour is over.",
)
register = HiveSource("register", connection="hive", table="flights.planes", timestamp_field="as_of")
