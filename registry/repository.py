"""A user's repository: the Python files beside ``feature_store.yaml``, and the definitions they hold."""

from __future__ import annotations

import builtins
import importlib
import importlib.machinery
import importlib.util
import sys
import threading
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType

from msgspec.structs import replace

from featurestore.definitions.code import UserCode
from featurestore.definitions.feature_view import FeatureView
from featurestore.definitions.on_demand import OnDemandFeatureView
from featurestore.definitions.project import KINDS, Definition, Project
from featurestore.errors import FeatureStoreError, RegistryError, RepositoryError

_SKIPPED_FOLDERS = {"__pycache__", "node_modules", "site-packages", "venv", "env"}
_SKIPPED_FILES = {"conftest.py", "setup.py", "__main__.py"}
_LOCK = threading.RLock()


def load_repository(repo_path: str | Path) -> list[Definition]:
    """Import the Python files of a repository and return the definitions found in them.

    Parameters
    ----------
    repo_path
        The folder that holds ``feature_store.yaml``.

    Returns
    -------
    list
        The entities, sources, views and services that stand at the top level of a module, each once, files in the
        order of their paths.

    Raises
    ------
    RepositoryError
        Where the folder holds no definitions, or a file fails; the message names the file, the line and the error.

    Notes
    -----
    Folders are searched too, save hidden ones, virtual environments, and those with a ``feature_store.yaml`` of their
    own; files named ``test_*``, ``conftest.py``, ``setup.py`` and ``__main__.py`` are left out. A file is the module
    that its path from the folder says (``a/b.py`` is ``a.b``) and may import its siblings; the modules are seen by one
    another alone, so that two repositories in one process cannot meet.
    """
    root = Path(repo_path).resolve()
    if not root.is_dir():
        raise RepositoryError(
            f"the repository {str(repo_path)!r} is not a folder; give the folder of feature_store.yaml"
        )
    repository = _Repository(root)
    found: dict[int, Definition] = {}
    for name in repository.files:
        module = repository.load(name)
        found.update({id(value): value for value in vars(module).values() if type(value) in KINDS})
    if not found:
        files = ", ".join(_relative(root, path) for path in list(repository.files.values())[:5])
        raise RepositoryError(
            f"the repository {str(root)!r} holds no definitions (looked into: {files or 'no Python files'}); "
            "define an Entity and a FeatureView at the top level of a .py file there, or run: featurestore init"
        )
    return list(found.values())


def bind_code(project: Project, definitions: Sequence[Definition], only: Collection[str] | None = None) -> Project:
    """Return the applied definitions with the callables of a repository.

    Parameters
    ----------
    project
        What `Registry.load` returned.
    definitions
        What `load_repository` returned.
    only
        The views whose code is needed; by default all.

    Raises
    ------
    RegistryError
        Where the code of an applied view is gone from the repository, or its text or place is not the applied one.
    """
    loaded = {view.name: view for view in definitions if isinstance(view, (FeatureView, OnDemandFeatureView))}
    bound = [
        _bound(definition, loaded) if only is None or definition.name in only else definition
        for definition in project.objects.values()
    ]
    return Project(bound)


def _bound(definition: Definition, loaded: dict[str, FeatureView | OnDemandFeatureView]) -> Definition:
    if isinstance(definition, FeatureView) and definition.code is not None:
        return replace(definition, transform=_match(definition.name, definition.code, loaded))
    if isinstance(definition, OnDemandFeatureView):
        return replace(definition, function=_match(definition.name, definition.code, loaded))
    return definition


def _match(view: str, applied: UserCode, loaded: dict[str, FeatureView | OnDemandFeatureView]) -> UserCode:
    found = loaded[view].code if view in loaded else None
    if found is None:
        problem = f"is not in the repository (it was {applied.path})"
    elif found.text != applied.text:
        problem = f"({found.path}) changed since the last apply"
    elif found.path != applied.path:
        problem = f"moved from {applied.path} to {found.path} since the last apply"
    else:
        return found
    raise RegistryError(f"the code of the view {view!r} {problem}: run featurestore apply")


class _Repository:
    """The modules of one repository, kept out of ``sys.modules`` except while they import one another."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = {_module_name(root, path): path for path in _python_files(root)}
        self.packages: dict[str, Path] = {}
        for name, path in self.files.items():
            folder = path.parent
            parts = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
            while parts:
                self.packages[".".join(parts)] = folder
                folder, parts = folder.parent, parts[:-1]
        self.tops = {name.partition(".")[0] for name in self.files}
        self.modules: dict[str, ModuleType] = {}
        self._is_visible = False
        self._check_names()

    def _check_names(self) -> None:
        for name, path in self.files.items():
            top = name.partition(".")[0]
            if top in sys.stdlib_module_names or top == "featurestore":
                raise RepositoryError(
                    f"{_relative(self.root, path)}: {top!r} is also the name of a package of "
                    f"{'Python' if top != 'featurestore' else 'the feature store'}, which it would hide; rename it"
                )

    def load(self, name: str) -> ModuleType:
        """Import one module of the repository."""
        try:
            with self._visible():
                return importlib.import_module(name)
        except (Exception, SystemExit) as error:  # a user's file may raise anything
            raise self._explain(name, error) from error

    def import_(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002  (named as in builtins.__import__)
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Import for code in the repository, also later, from inside a function."""
        if level == 0 and name.partition(".")[0] not in self.tops:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        known = self.modules.get(name) if level == 0 else None
        if known is not None and (all(hasattr(known, item) for item in fromlist) if fromlist else "." not in name):
            return known
        with self._visible():
            return builtins.__import__(name, globals, locals, fromlist or (), level)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find the repository's own modules (a finder, as ``sys.meta_path`` holds them)."""
        del path, target
        file = self.files.get(name)
        folder = self.packages.get(name)
        if file is not None:
            return importlib.util.spec_from_file_location(
                name,
                file,
                loader=_Loader(name, str(file), self),
                submodule_search_locations=[str(folder)] if folder else None,
            )
        if folder is None:
            return None
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return spec

    @contextmanager
    def _visible(self) -> Iterator[None]:
        """Let the repository's modules be imported by name, and hide others of the same names meanwhile."""
        with _LOCK:
            if self._is_visible:
                yield
                return
            hidden = {name: sys.modules.pop(name) for name in self._loaded()}
            sys.modules.update(self.modules)
            sys.meta_path.insert(0, self)
            self._is_visible = True
            try:
                yield
            finally:
                self._is_visible = False
                sys.meta_path.remove(self)
                self.modules = {name: sys.modules.pop(name) for name in self._loaded()}
                sys.modules.update(hidden)

    def _loaded(self) -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] in self.tops]

    def _explain(self, name: str, error: BaseException) -> RepositoryError:
        """Return the error that names the file and line of the repository where the import failed."""
        file, line = self.files[name], 0
        known = {str(path): path for path in self.files.values()}
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename in known:
                file, line = known[frame.filename], frame.lineno or 0
        if isinstance(error, SyntaxError) and error.filename in known:
            file, line = known[error.filename], error.lineno or 0
        what = str(error) if isinstance(error, FeatureStoreError) else f"{type(error).__name__}: {error}"
        if isinstance(error, SyntaxError):
            what = f"{type(error).__name__}: {error.msg}"
        if isinstance(error, SystemExit):
            what = "it ends the program when imported; put that under if __name__ == '__main__':"
        where = f"{_relative(self.root, file)}, line {line}" if line else _relative(self.root, file)
        return RepositoryError(f"{where}: {what}")


class _Loader(importlib.machinery.SourceFileLoader):
    """Reads source, never bytecode: that is judged by the second, and a file may change twice in one."""

    def __init__(self, name: str, path: str, repository: _Repository) -> None:
        super().__init__(name, path)
        self._repository = repository

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": self._repository.import_}
        super().exec_module(module)


def _python_files(root: Path) -> Iterator[Path]:
    """Yield the files to import, folders after the files beside them, each level by name."""
    entries = sorted(root.iterdir(), key=lambda entry: (entry.is_dir(), entry.name))
    for entry in entries:
        if entry.is_dir():
            if not _is_skipped(entry):
                yield from _python_files(entry)
        elif entry.suffix == ".py" and not entry.name.startswith((".", "test_")) and entry.name not in _SKIPPED_FILES:
            yield entry


def _is_skipped(folder: Path) -> bool:
    return (
        folder.name.startswith(".")
        or folder.name in _SKIPPED_FOLDERS
        or (folder / "pyvenv.cfg").exists()
        or (folder / "feature_store.yaml").exists()
    )


def _module_name(root: Path, path: Path) -> str:
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(part.replace(".", "_") for part in parts)


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
