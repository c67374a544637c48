"""``python -m benchmarks [startup|lookup]... [--json]``; without a name, all."""

from __future__ import annotations

import argparse
import importlib
import sys

NAMES = ("startup", "lookup")


def main() -> int:
    """Run the named benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}; by default all")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(NAMES)
    if unknown:
        parser.error(f"unknown benchmark {min(unknown)!r}; there are {', '.join(NAMES)}")
    rows = [row for name in arguments.names or NAMES for row in importlib.import_module(f"benchmarks.{name}").run()]
    from benchmarks.report import report

    return report(rows, as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
