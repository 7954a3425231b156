"""Opening holds for the commands, and a structure as it is stored.

Values pass through here as stored text or bytes: a dump decodes nothing, and no pickle is ever loaded.
"""

import difflib
import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

from holdfast import hold as holds
from holdfast.cli.keys import key_meant_as_json, shortened, shown
from holdfast.codec import SERIALIZERS, Key, Serializer, Stored, encode
from holdfast.errors import InvalidError, MissingError
from holdfast.hold import Hold
from holdfast.journal.table import EPHEMERAL, LOCAL, Table
from holdfast.structures.dictionary import Dict
from holdfast.structures.tracker import Tracker

MARKS = {"local": LOCAL, "ephemeral": EPHEMERAL}
OPAQUE_SHOWN = 16  # bytes of an opaque value that a screen gets
KEYS_COMPARED = 10_000  # when looking for one that was mistyped
_DICT_OPTIONS = frozenset(("merge", "serializer", "strict_json", "local", "ephemeral"))


def look(path: str) -> Hold:
    """Open a hold to look into it; nothing is changed."""
    expect(path)
    return holds.open(path, readonly=True, create=False)


def change(path: str, create: bool = False) -> Hold:
    """Open a hold so that each change is seen by all who have it open, at once."""
    if not create:
        expect(path)
    return holds.open(path, shared=True, create=create)


def expect(path: str) -> None:
    """Raise MissingError unless there is something at the path."""
    if not os.path.lexists(path):
        raise MissingError(f"there is no file {path!r}: check the path")


def _untouched(stored: Any) -> Any:
    return stored


class Structure:
    """One structure of an open hold, its values as they are stored. Nothing else uses the structure meanwhile."""

    def __init__(self, hold: Hold, name: str) -> None:
        self.path = hold.path
        self.table = find(hold, name)
        self.name, self.kind = name, self.table.kind
        self.serializer = SERIALIZERS[self.table.options.get("serializer", "json")]
        raw = Serializer("stored", _untouched, _untouched)
        self._raw = Dict(hold._journal, self.table, raw, sync_changes=1_000, cache_bytes=0)

    def __len__(self) -> int:
        return len(self._raw)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._raw)

    def items(self) -> Iterator[tuple[Key, Stored]]:
        """All keys with their stored values, in order; each entry whole, whatever others write meanwhile."""
        return iter(self._raw.items())

    def value(self, key: Key) -> Any:
        """The value of a key. MissingError tells of keys much alike; InvalidError for what may not be loaded."""
        if key not in self._raw:
            raise MissingError(f"{shown(key)} is not in {self.name!r} of {self.path!r}{self._hint(key)}")
        if self.serializer.unsafe:
            raise InvalidError(
                f"the values of {self.name!r} are stored by serializer={self.serializer.name!r}, and loading them can "
                "run code: read them from Python, or `holdfast dump` them as they are"
            )
        return self.serializer.loads(self._raw[key])

    def _hint(self, key: Key) -> str:
        if isinstance(key, str):
            other = key_meant_as_json(key)
            if other is not None and other[0] in self._raw:
                return f", but there is a key {encode(other[0])} that is not text: add --json-key"
        elif encode(key) in self._raw:
            return ", but there is a text that reads like it: leave out --json-key"
        texts = [k for k in islice(self, KEYS_COMPARED) if isinstance(k, str)]
        close = difflib.get_close_matches(str(key), texts, n=1)
        if close:
            return f": did you mean {shown(close[0])}?"
        return f": `holdfast ls` shows which are ({len(self):,})"

    def short(self, stored: Stored, width: int) -> str:
        """The beginning of a stored value, in one line of at most `width` characters."""
        if isinstance(stored, bytes):
            more = "…" if len(stored) > OPAQUE_SHOWN else ""
            text = f"<{self.serializer.name}, {len(stored):,} bytes: {stored[:OPAQUE_SHOWN].hex()}{more}>"
        else:
            text = stored if self.serializer.tracked else encode(stored[:width])
        return shortened(text, width)

    def store(self, pairs: list[tuple[Key, Stored]]) -> None:
        """Store values as they are. Only for serializers whose values are opaque."""
        self._raw.update(pairs)

    def marks(self, key: Key) -> list[str]:
        """The marks that this entry has by itself, beyond those of the whole structure."""
        flags = self.table.flags_of(key)
        return [name for name, bit in MARKS.items() if flags & ~self.table.default_flags & bit]


def find(hold: Hold, name: str) -> Table:
    """The table of a structure. MissingError names those that are there."""
    table = hold._journal.find_table(name)
    if table is None:
        there = ", ".join(f"{name} ({kind})" for name, kind in hold.structures().items())
        raise MissingError(f"there is no structure {name!r} in {hold.path!r}; there are: {there or 'none'}")
    return table


def face(hold: Hold, name: str) -> Dict:
    """The structure as the library gives it, to be changed. InvalidError where its values are not JSON or text."""
    table = find(hold, name)
    serializer = table.options.get("serializer", "json")
    if serializer not in ("json", "str"):
        raise InvalidError(
            f"the values of {name!r} are stored by serializer={serializer!r}, which can't be typed here: "
            "change them from Python"
        )
    return make(hold, name, table.kind, {})


def make(hold: Hold, name: str, kind: str, options: dict[str, Any]) -> Dict:
    """The structure of that name and kind, made if missing."""
    if kind not in ("dict", "tracker"):
        raise InvalidError(f"{name!r} is of kind {kind!r}, which this version can't write: update holdfast")
    unknown = sorted(set(options) - (_DICT_OPTIONS if kind == "dict" else set()))
    if unknown:
        raise InvalidError(f"{name!r} is a {kind} with options that are unknown here: {', '.join(unknown)}")
    return hold.tracker(name) if kind == "tracker" else hold.dict(name, **options)


def own_options(table: Table) -> dict[str, Any]:
    """The options that say something: not those that every structure of the kind has."""
    usual = {"merge": "value", "serializer": "json", **(Tracker.OPTIONS if table.kind == "tracker" else {})}
    return {name: value for name, value in table.options.items() if usual.get(name) != value}
