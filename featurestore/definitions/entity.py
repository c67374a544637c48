"""Entities and fields: what features are about, and the typed columns that describe it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import force_setattr

from featurestore.definitions.naming import check_column, check_list, check_name, check_tags, check_text, check_unique
from featurestore.errors import DefinitionError
from featurestore.types import ValueType

_KEY_KINDS = {"int32", "int64", "string", "bytes", "bool", "timestamp"}


class Field(msgspec.Struct, frozen=True):
    """A named, typed column.

    Attributes
    ----------
    name
        The column's name, as in the source (after its ``field_mapping``).
    dtype
        One of the types in `featurestore.types`.
    """

    name: str
    dtype: ValueType
    description: str = ""
    tags: dict[str, str] = {}

    def __post_init__(self) -> None:
        check_column(f"Field {self.name!r}", self.name)
        if not isinstance(self.dtype, ValueType):
            raise DefinitionError(
                f"Field {self.name!r}: {self.dtype!r} is not a type; write Field({self.name!r}, Float64), for one"
            )
        check_tags(f"Field {self.name!r}", self.tags)
        check_text(f"Field {self.name!r}", description=self.description)


class Entity(msgspec.Struct, frozen=True, tag="entity"):
    """A thing that features describe, identified by one or more join keys.

    Parameters
    ----------
    name
        Name of the entity; with no ``join_keys`` also the name of its one join key.
    join_keys
        Column names, or `Field` objects where their types differ. Keys are integers, strings, bytes, bools or
        timestamps, never floats.
    value_type
        The type of the join keys given by name alone.

    Examples
    --------
    >>> from featurestore.types import Int64, String
    >>> Entity("driver", join_keys=["driver_id"], value_type=Int64).keys[0].name
    'driver_id'
    >>> [k.name for k in Entity("route", join_keys=["origin", "dest"], value_type=String).keys]
    ['origin', 'dest']
    """

    name: str
    join_keys: Sequence[str | Field] = ()
    value_type: ValueType | None = None
    description: str = ""
    tags: dict[str, str] = {}
    owner: str = ""

    def __post_init__(self) -> None:
        label = f"Entity {self.name!r}"
        check_name("Entity", self.name)
        fields = []
        for key in check_list(label, "join_keys", self.join_keys, 'join_keys=["driver_id"]') or (self.name,):
            if isinstance(key, Field):
                fields.append(key)
            elif self.value_type is None:
                raise DefinitionError(f"{label}: say the type of {key!r}: value_type=Int64 or Field({key!r}, Int64)")
            else:
                fields.append(Field(key, self.value_type))
        for field in fields:
            if field.dtype.kind not in _KEY_KINDS:
                raise DefinitionError(
                    f"{label}: the join key {field.name!r} is a {field.dtype}; "
                    "keys are integers, strings, bytes, bools or timestamps"
                )
        check_unique(label, "join key", [field.name for field in fields])
        check_tags(label, self.tags)
        check_text(label, description=self.description, owner=self.owner)
        force_setattr(self, "join_keys", tuple(fields))
        force_setattr(self, "value_type", None)

    @property
    def keys(self) -> tuple[Field, ...]:
        """The join keys with their types, in order."""
        return tuple(key for key in self.join_keys if isinstance(key, Field))
