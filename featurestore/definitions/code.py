"""User code in definitions: held as a callable in the process, as source text and import path everywhere else.

Nothing is pickled and stored text is never evaluated: a process that needs the code imports the user's repository
and compares its text with the recorded one.
"""

from __future__ import annotations

import hashlib
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from featurestore.errors import DefinitionError


class UserCode:
    """A user's function: the import path and source text that are recorded, and the callable where it is loaded.

    Two are equal where path and text are equal. `text` holds the function alone, not what it calls: keep helpers it
    needs inside the function or in a versioned package.
    """

    __slots__ = ("function", "path", "text")

    def __init__(self, path: str, text: str, function: Callable[..., Any] | None = None) -> None:
        self.path = path
        self.text = text
        self.function = function

    @classmethod
    def of(cls, owner: str, function: object) -> UserCode:
        """Record ``function``; its source must be readable, so that others can see what it did."""
        if isinstance(function, UserCode):
            return function
        if isinstance(function, dict) and function.keys() == {"path", "text"}:  # decoded from the registry
            return cls(str(function["path"]), str(function["text"]))
        if not callable(function):
            raise DefinitionError(f"{owner}: {function!r} is not a function")
        name = getattr(function, "__qualname__", "")
        module = getattr(function, "__module__", "")
        try:
            text = textwrap.dedent(inspect.getsource(function))
        except (OSError, TypeError) as error:
            raise DefinitionError(
                f"{owner}: the source text of {name or function!r} cannot be read; define it in a file with def"
            ) from error
        return cls(f"{module}:{name}", text, function)

    def __call__(self, *args: Any) -> Any:
        """Call the function; it must have been loaded from the repository."""
        if self.function is None:
            raise DefinitionError(f"the code of {self.path} is not loaded; open the store with its repo_path")
        return self.function(*args)

    @property
    def digest(self) -> str:
        """SHA-256 of the source text, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UserCode) and (self.path, self.text) == (other.path, other.text)

    def __hash__(self) -> int:
        return hash((self.path, self.text))

    def __repr__(self) -> str:
        return f"UserCode({self.path!r})"
