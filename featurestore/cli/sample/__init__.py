"""The sample project that ``featurestore init`` writes: templates, and the data they are about."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from importlib import resources
from string import Template

CUSTOMERS = 20
DAYS = 30
LABELS = 40
_COUNTRIES = ("DE", "FR", "NL", "PL", "SE")


def sample_files(project: str, today: datetime) -> dict[str, str]:
    """Return the files of the sample project: path to text.

    Parameters
    ----------
    project
        The project's name.
    today
        Midnight, UTC, at which the history ends and the new orders begin.
    """
    names = ("feature_store.yaml", "features.py", "README.md")
    values = {"project": project, "today": today.date().isoformat()}
    folder = resources.files(__name__)
    texts = {name: folder.joinpath(f"{name}.tmpl").read_text(encoding="utf-8") for name in names}
    return {name: Template(text).substitute(values) for name, text in texts.items()} | _data(today)


def _data(today: datetime) -> dict[str, str]:
    chance = random.Random(7)  # noqa: S311  (the sample must be the same every time)
    start = today - timedelta(days=DAYS)

    def moment() -> datetime:
        return start + timedelta(seconds=chance.randrange(DAYS * 86_400))

    customers = range(1, CUSTOMERS + 1)
    profiles = [(c, start, chance.choice(_COUNTRIES), 100.0 * chance.randint(2, 20)) for c in customers]
    profiles += [(c, moment(), chance.choice(_COUNTRIES), 100.0 * chance.randint(2, 20)) for c in customers[::2]]
    usual = {c: chance.uniform(20, 120) for c in customers}
    orders = [(c, moment(), _amount(chance, usual[c])) for c in chance.choices(customers, k=30 * CUSTOMERS)]
    labels = []
    for customer, when, _ in chance.sample(
        [order for order in orders if order[1] >= start + timedelta(days=7)], LABELS
    ):
        fraud = chance.random() < 0.3
        amount = _amount(chance, usual[customer] * (4 if fraud else 1))
        labels.append((customer, when + timedelta(hours=1), amount, int(fraud)))
    new = [(c, today + timedelta(seconds=n), _amount(chance, usual[c])) for n, c in enumerate((3, 7, 3), 1)]
    return {
        "data/profiles.csv": _csv(("customer_id", "updated_at", "country", "credit_limit"), profiles),
        "data/orders.csv": _csv(("customer_id", "ordered_at", "amount"), orders),
        "data/labels.csv": _csv(("customer_id", "event_timestamp", "amount", "fraud"), labels),
        "data/new_orders.jsonl": "".join(
            json.dumps({"customer_id": c, "ordered_at": _iso(when), "amount": amount}) + "\n" for c, when, amount in new
        ),
    }


def _amount(chance: random.Random, usual: float) -> float:
    return round(usual * chance.uniform(0.5, 1.5), 2)


def _csv(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in sorted(rows, key=lambda row: str(row[1])):
        writer.writerow([_iso(value) if isinstance(value, datetime) else value for value in row])
    return text.getvalue()


def _iso(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")
