"""The lines of a dump back into a hold, some thousands at a time."""

from collections.abc import Iterable
from typing import Any

from holdfast.cli.lines import Entry, Header
from holdfast.cli.stored import Structure, find, make
from holdfast.errors import InvalidError
from holdfast.hold import Hold
from holdfast.structures.dictionary import Dict

ENTRIES_AT_ONCE = 8_192  # read before other writers are kept waiting


class Loader:
    """Takes lines in order. What `flush` has returned from is in the file."""

    def __init__(self, hold: Hold, structure: str | None) -> None:
        self.hold = hold
        self.counts: dict[str, int] = {}
        self._wanted = structure
        self._headers = 0
        self._target: Dict | None = None
        self._name = ""
        self._opaque: Structure | None = None
        self._pending: list[Entry] = []

    def load(self, parsed: Iterable[Header | Entry]) -> None:
        """Take all lines. On an error those before it are loaded, and the message says so."""
        try:
            for one in parsed:
                if isinstance(one, Header):
                    self._begin(one)
                else:
                    self._add(one)
            self.flush()
        except InvalidError as error:
            self.flush()
            loaded = sum(self.counts.values())
            raise InvalidError(
                f"{error}; the {loaded:,} entries before it are loaded, and it may be repeated"
            ) from None

    def _begin(self, header: Header) -> None:
        self.flush()
        self._headers += 1
        if self._wanted is not None and self._headers > 1:
            raise InvalidError(
                f"line {header.line} begins a second structure, {header.name!r}, and all was to go to "
                f"{self._wanted!r}: leave STRUCTURE out, or dump one structure alone"
            )
        self._open(self._wanted or header.name, header.kind, header.options)

    def _open(self, name: str, kind: str, options: dict[str, Any]) -> None:
        self._name = name
        self._target = make(self.hold, name, kind, options)
        opaque = find(self.hold, name).options.get("serializer", "json") not in ("json", "str")
        self._opaque = Structure(self.hold, name) if opaque else None
        self.counts.setdefault(name, 0)

    def _add(self, entry: Entry) -> None:
        if self._target is None:
            self._open_unannounced(entry)
        if (entry.stored is not None) != (self._opaque is not None):
            kind = '"base64"' if self._opaque else '"value"'
            raise InvalidError(f"line {entry.line}: the values of {self._name!r} must come as {kind}")
        self._pending.append(entry)
        if len(self._pending) == ENTRIES_AT_ONCE:
            self.flush()

    def _open_unannounced(self, entry: Entry) -> None:
        """No header came: the entries are of the structure that the caller named, as it is or as a dict."""
        if self._wanted is None:
            raise InvalidError(
                f'line {entry.line} is of no structure: name one after FILE, or begin with {{"structure": "NAME"}}'
            )
        there = self.hold._journal.find_table(self._wanted)
        options = {"serializer": there.options["serializer"]} if there and there.kind == "dict" else {}
        self._open(self._wanted, there.kind if there else "dict", options)

    def flush(self) -> None:
        """Bring what was taken to the file."""
        pending, self._pending = self._pending, []
        if not pending or self._target is None:
            return
        if self._opaque is not None:
            self._opaque.store([(one.key, one.stored) for one in pending if one.stored is not None])
        else:
            self._target.update([(one.key, one.value) for one in pending])
        self.hold.sync()
        for one in pending:
            if one.marks:
                self._target.mark(one.key, local="local" in one.marks, ephemeral="ephemeral" in one.marks)
        self.counts[self._name] += len(pending)
