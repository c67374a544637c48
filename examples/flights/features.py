"""Features for predicting, at the scheduled departure, how late a flight from New York will arrive."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sources import arrivals, departures, observations, register

from featurestore import (
    Aggregation,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    RequestSource,
    on_demand_feature_view,
)
from featurestore.types import Bool, Float64, Int64, String

HOUR, DAY = timedelta(hours=1), timedelta(days=1)

airport = Entity("airport", join_keys=["origin"], value_type=String, description="One of EWR, JFK, LGA.")
aircraft = Entity("aircraft", join_keys=["tailnum"], value_type=String)
route = Entity("route", join_keys=["origin", "dest"], value_type=String)

# Views. ---------------------------------------------------------------------------------------------------

weather = FeatureView(
    "weather",
    entities=[airport],
    source=observations,
    ttl=timedelta(hours=3),
    schema=[
        Field("temp", Float64, description="Degrees Fahrenheit."),
        Field("dewp", Float64, description="Dew point, degrees Fahrenheit."),
        Field("humid", Float64, description="Relative humidity, percent."),
        Field("wind_dir", Int64, description="Degrees."),
        Field("wind_speed", Float64, description="Miles per hour."),
        Field("wind_gust", Float64, description="Miles per hour."),
        Field("precip", Float64, description="Inches."),
        Field("pressure", Float64, description="Millibars."),
        Field("visib", Float64, description="Miles."),
    ],
    description="The last known hour of weather at the origin.",
)
rain_and_wind = FeatureView(
    "rain_and_wind",
    entities=[airport],
    source=observations,
    schema=weather.schema,  # the rows of `weather`, so both views share one log
    aggregations=[
        Aggregation("precip", "sum", 6 * HOUR, name="rain_6h"),
        Aggregation("precip", "sum", 1 * DAY, name="rain_1d"),
        Aggregation("wind_gust", "max", 6 * HOUR, name="max_gust_6h"),
        Aggregation("wind_speed", "mean", 6 * HOUR, name="mean_wind_6h"),
    ],
    description="What the weather at the origin has been like.",
)
plane = FeatureView(
    "plane",
    entities=[aircraft],
    source=register,
    schema=[
        Field("built", Int64, description="Year of manufacture."),
        Field("manufacturer", String),
        Field("engines", Int64),
        Field("seats", Int64),
    ],
    description="What the register says about the aircraft.",
)
congestion = FeatureView(
    "congestion",
    entities=[airport],
    source=departures,
    schema=[Field("dep_delay", Int64, description="Minutes; negative when early.")],
    aggregations=[
        Aggregation(function="count", time_window=1 * HOUR, name="departures_1h"),
        Aggregation("dep_delay", "mean", 1 * HOUR),
        Aggregation("dep_delay", "max", 1 * HOUR),
        Aggregation("dep_delay", "approx_quantile", 1 * HOUR, q=0.9),
        Aggregation(function="count", time_window=6 * HOUR, name="departures_6h"),
        Aggregation("dep_delay", "mean", 6 * HOUR),
        Aggregation("dep_delay", "max", 6 * HOUR),
        Aggregation("dep_delay", "approx_quantile", 6 * HOUR, q=0.9),
    ],
    description="How many flights have just left the origin, and how late.",
)
recent_flights = FeatureView(
    "recent_flights",
    entities=[aircraft],
    source=arrivals,
    schema=[Field("arr_delay", Int64, description="Minutes; negative when early.")],
    aggregations=[
        Aggregation("arr_delay", "last", 7 * DAY, name="last_delay"),
        Aggregation("arr_delay", "last_n", 7 * DAY, n=3, name="last_3_delays"),
        Aggregation("arr_delay", "mean", 1 * DAY, name="mean_delay_1d"),
        Aggregation("arr_delay", "mean", 7 * DAY, name="mean_delay_7d"),
    ],
    description="How late this very aircraft has been landing.",
)
route_history = FeatureView(
    "route_history",
    entities=[route],
    source=arrivals,
    schema=[Field("arr_delay", Int64, description="Minutes; negative when early.")],
    aggregations=[
        Aggregation(function="count", time_window=7 * DAY, name="route_landings_7d"),
        Aggregation("arr_delay", "mean", 7 * DAY, name="route_mean_delay_7d"),
        Aggregation("arr_delay", "stddev", 7 * DAY, name="route_stddev_delay_7d"),
        Aggregation(function="count", time_window=30 * DAY, name="route_landings_30d"),
        Aggregation("arr_delay", "mean", 30 * DAY, name="route_mean_delay_30d"),
        Aggregation("arr_delay", "stddev", 30 * DAY, name="route_stddev_delay_30d"),
    ],
    description="How late flights on this route have been landing.",
)

booking = RequestSource(
    "booking",
    schema=[Field("distance", Int64), Field("sched_hour", Int64), Field("month", Int64)],
    description="What the timetable says; miles, and hour and month in New York.",
)


@on_demand_feature_view(
    sources=[booking, plane[["seats"]], congestion[["mean_dep_delay_1h", "mean_dep_delay_6h"]]],
    schema=[
        Field("part_of_day", String),
        Field("holiday_season", Bool),
        Field("miles_per_seat", Float64),
        Field("delay_trend", Float64),
    ],
)
def timetable(inputs: dict[str, Any]) -> dict[str, Any]:
    """Combine the timetable with the aircraft and the origin's congestion."""
    hour, now, before = inputs["sched_hour"], inputs["mean_dep_delay_1h"], inputs["mean_dep_delay_6h"]
    return {
        "part_of_day": "morning" if hour < 12 else "afternoon" if hour < 18 else "evening",
        "holiday_season": inputs["month"] in (6, 7, 8, 12),
        "miles_per_seat": inputs["distance"] / inputs["seats"] if inputs["seats"] else None,
        "delay_trend": None if now is None or before is None else now - before,
    }


delay_model = FeatureService(
    "delay_model",
    features=[weather, rain_and_wind, plane, congestion, recent_flights, route_history, timetable],
    description="All that is known about a flight at its scheduled departure.",
)
