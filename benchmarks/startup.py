"""How long a new process needs to import the package and to print the help, beside an empty interpreter."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.options import Options
from benchmarks.report import Row, median_seconds


def run(_: Options, repeat: int = 7) -> list[Row]:
    """Measure whole processes."""

    def process(*arguments: str) -> float:
        command = [sys.executable, *arguments]
        return median_seconds(lambda: subprocess.run(command, check=True, capture_output=True), repeat=repeat)

    empty = process("-c", "pass")
    imported = process("-c", "import featurestore")
    helped = process("-m", "featurestore.cli.main", "--help")
    return [
        Row("import featurestore", imported, None, empty, 0.3, agree=True),
        Row("featurestore --help", helped, None, empty, 0.4, agree=True),
    ]
