"""Runs ours beside a hand-written answer and Feast, on the same generated data, and reports times, memory and ratios.

  startup      import of the package and help of the command line
  lookup       by the SDK from LMDB and Redis, beside bare reads and Feast
  serve        by HTTP from Redis, beside a handler written by hand and Feast's server
  pit          point-in-time join, beside a DuckDB ASOF join and Feast's offline stores
  windows      window aggregates, beside a DuckDB range join
  views        ten views in one call, beside ten calls
  materialize  into log and LMDB, beside bare puts and Feast into SQLite
  soak         the API for --minutes while Redis is killed and comes back empty; only where it is named
  materialize-online  into log and Redis, beside bare SETs and Feast into Redis

Without a name, all but soak. The exit code is 1 unless every answer of ours is right and every bar is met; the bars are
meant for --scale 1. What is measured, and how it is kept fair, is in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.options import FEAST_STORES, Options, cpus, progress
from benchmarks.race import ContestantError
from benchmarks.report import report

NAMES = ("startup", "lookup", "serve", "pit", "windows", "views", "materialize", "materialize-online")
BY_NAME_ALONE = ("soak",)
"""What takes long, and compares with nothing."""


def main() -> int:
    """Run the named benchmarks."""
    parser = _parser()
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {*NAMES, *BY_NAME_ALONE}:
        parser.error(f"unknown benchmark {min(unknown)!r}; there are {', '.join((*NAMES, *BY_NAME_ALONE))}")
    feast = () if arguments.no_feast else tuple(filter(None, arguments.feast.split(",")))
    if unknown := set(feast) - set(FEAST_STORES):
        parser.error(f"--feast {min(unknown)}: Feast's stores here are {', '.join(FEAST_STORES)}")
    if not 0 < arguments.scale <= 10:
        parser.error(f"--scale {arguments.scale:g}: give a number above 0 and at most 10, such as 0.1")
    with ExitStack() as stack:
        folder = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="featurestore-bench-")))
        folder.mkdir(parents=True, exist_ok=True)
        options = Options(
            folder=folder.absolute(),
            scale=arguments.scale,
            feast=feast,
            repeat=arguments.repeat or (3 if arguments.scale <= 0.1 else 2),
            timeout=arguments.timeout,
            large=arguments.large,
            minutes=arguments.minutes,
        )
        options = options.with_feast_that_is_there()
        progress(
            f"scale {options.scale:g} of 10 M rows x 1 M labels; best of {options.repeat}, Feast once; "
            f"{cpus()} CPUs, Python {platform.python_version()}, {platform.machine()}"
        )
        rows = []
        for name in arguments.names or NAMES:
            progress(name)
            try:
                rows += importlib.import_module(f"benchmarks.{name.replace('-', '_')}").run(options)
            except ContestantError as error:
                parser.exit(2, f"{name}: {error}\n")
    return report(rows, as_json=arguments.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; by default all")
    parser.add_argument("--scale", type=float, default=0.1, help="1 is 10 M rows x 1 M labels (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--large", action="store_true", help="pit: also 100 M rows (times the scale)")
    parser.add_argument("--minutes", type=float, default=10, help="soak: how long (default: %(default)s)")
    parser.add_argument("--feast", default=",".join(FEAST_STORES), help="Feast's stores (default: %(default)s)")
    parser.add_argument("--no-feast", action="store_true", help="leave Feast out")
    parser.add_argument("--repeat", type=int, help="runs of ours and of what is written by hand; the best counts")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for each run of a peer (default: 600)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="make the inputs there, or use them, and keep them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
