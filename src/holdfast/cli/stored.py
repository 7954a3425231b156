"""Opening holds for the commands, and a structure as it is stored.

Values pass through here as stored text or bytes: a dump decodes nothing, and no pickle is ever loaded.
"""

import difflib
from collections.abc import Iterator
from typing import Any

from holdfast import hold as holds
from holdfast.codec import SERIALIZERS, Key, Serializer, Stored, decode
from holdfast.errors import InvalidError, MissingError
from holdfast.hold import Hold
from holdfast.journal.table import EPHEMERAL, LOCAL, Table
from holdfast.structures.dictionary import Dict
from holdfast.structures.tracker import Tracker

MARKS = {"local": LOCAL, "ephemeral": EPHEMERAL}
OPAQUE_SHOWN = 24  # bytes of an opaque value that a screen gets


def look(path: str) -> Hold:
    """Open a hold to look into it; nothing is changed."""
    return holds.open(path, readonly=True, create=False)


def change(path: str, create: bool = False) -> Hold:
    """Open a hold so that each change is seen by all who have it open, at once."""
    return holds.open(path, shared=True, create=create)


def _untouched(stored: Any) -> Any:
    return stored


class Structure:
    """One structure of an open hold, its values as they are stored. Nothing else may use the structure meanwhile."""

    def __init__(self, hold: Hold, name: str) -> None:
        self.hold = hold
        self.table = find(hold, name)
        self.name, self.kind = name, self.table.kind
        self.serializer = str(self.table.options.get("serializer", "json"))
        self.is_json = self.serializer == "json"
        raw = Serializer("stored", _untouched, _untouched)
        self._raw = Dict(hold._journal, self.table, raw, sync_changes=1_000, cache_bytes=0)

    def __len__(self) -> int:
        return len(self._raw)

    def keys(self) -> Iterator[Key]:
        return iter(self._raw)

    def items(self) -> Iterator[tuple[Key, Stored]]:
        """All keys with their stored values, in order; each entry whole, whatever others write meanwhile."""
        return iter(self._raw.items())

    def stored(self, key: Key) -> Stored:
        """The stored value of a key. MissingError says what a key that is much alike would be."""
        if key in self._raw:
            return self._raw[key]  # type: ignore[no-any-return]
        raise MissingError(f"{key!r} is not in {self.name!r} of {self.hold.path!r}{self._hint(key)}")

    def _hint(self, key: Key) -> str:
        other = as_json_key(key) if isinstance(key, str) else str(key)
        if other is not None and other in self._raw:
            return f", but {other!r} is: " + ("add --json-key" if isinstance(key, str) else "leave out --json-key")
        close = difflib.get_close_matches(str(key), (k for k in self.keys() if isinstance(k, str)), n=1)
        return f"; did you mean {close[0]!r}?" if close else f": `holdfast ls` tells the {len(self):,} keys"

    def value(self, key: Key) -> Any:
        """The value of a key. InvalidError where it can't be told: a pickle is never loaded here."""
        stored = self.stored(key)
        serializer = SERIALIZERS[self.serializer]
        if serializer.unsafe:
            raise InvalidError(
                f"the values of {self.name!r} are stored by serializer={self.serializer!r}, and loading them can run "
                "code: read them from Python, or `holdfast dump` them as they are"
            )
        return serializer.loads(stored)

    def short(self, stored: Stored) -> str:
        """A stored value for one line on a screen; not cut yet."""
        if isinstance(stored, bytes):
            more = "…" if len(stored) > OPAQUE_SHOWN else ""
            return f"<{self.serializer}, {len(stored):,} bytes: {stored[:OPAQUE_SHOWN].hex()}{more}>"
        return stored if self.is_json else repr(stored)

    def marks(self, key: Key) -> list[str]:
        """The marks that this entry has by itself."""
        flags = self.table.flags_of(key)
        return [] if flags == self.table.default_flags else [name for name, bit in MARKS.items() if flags & bit]


def find(hold: Hold, name: str) -> Table:
    """The table of a structure. MissingError names those that are there."""
    table = hold._journal.find_table(name)
    if table is None:
        there = ", ".join(f"{name!r} ({kind})" for name, kind in hold.structures().items())
        raise MissingError(f"there is no structure {name!r} in {hold.path!r}; there are: {there or 'none'}")
    return table


def face(hold: Hold, name: str) -> Dict:
    """The structure as the library gives it, to be changed. InvalidError where its values are not JSON or text."""
    table = find(hold, name)
    serializer = table.options.get("serializer", "json")
    if serializer not in ("json", "str"):
        raise InvalidError(
            f"the values of {name!r} are stored by serializer={serializer!r}, which can't be written from here: "
            "change them from Python"
        )
    return make(hold, name, table.kind, {})


def make(hold: Hold, name: str, kind: str, options: dict[str, Any]) -> Dict:
    """The structure of that name and kind, made if missing."""
    if kind == "tracker":
        return hold.tracker(name)
    if kind == "dict":
        known = {"merge", "serializer", "strict_json", "local", "ephemeral"}
        unknown = sorted(set(options) - known)
        if unknown:
            raise InvalidError(f"{name!r} has options that this version does not know: {', '.join(unknown)}")
        return hold.dict(name, **options)
    raise InvalidError(f"{name!r} is of kind {kind!r}, which this version can't write: update holdfast")


def own_options(table: Table) -> dict[str, Any]:
    """The options that say something: not those that every structure of the kind has."""
    usual = {"merge": "value", "serializer": "json", **(Tracker.OPTIONS if table.kind == "tracker" else {})}
    return {name: value for name, value in table.options.items() if usual.get(name) != value}


def as_json_key(text: str) -> Key:
    """The key that JSON text stands for; None also for what is no JSON, since it stands for no other key."""
    try:
        return key_of(decode(text))
    except Exception as error:
        if isinstance(error, (ValueError, InvalidError)) or type(error).__name__ == "CorruptError":
            return None
        raise


def key_of(value: Any) -> Key:
    """A key as JSON has it: lists stand for tuples. InvalidError for what can't be a key."""
    from holdfast.codec import plain_key

    if isinstance(value, dict):
        raise InvalidError(f"{value!r} can't be a key: keys are strings, numbers, true, false, null or lists of them")
    return plain_key(tuple(map(key_of, value)) if isinstance(value, list) else value)
