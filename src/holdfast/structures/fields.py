"""How a structure whose entries merge field by field says what changed: as delta rows (see journal/merge.py)."""

from typing import Any

from holdfast.codec import decode, encode
from holdfast.journal import merge
from holdfast.journal.table import FieldsTable, Part


def collect(
    table: FieldsTable,
    keys: list[Any],
    texts: list[Any],
    removed: list[Any],
    renewed: list[Any],
    replaced: set[Any],
) -> Part | None:
    """The part of a batch for these keys; None if nothing differs. `replaced`: keys that were assigned whole."""
    journal = table.journal
    stamp = (journal.clock.tick(), journal.uid_of(journal.here))
    renewed = [*renewed, *(key for key in keys if key not in renewed and _is_dead(table, key))]
    deltas = {key: merge.deletion("fields", stamp) for key in removed}
    for key, text in zip(keys, texts, strict=True):
        delta = _delta(table, key, text, stamp, anew=key in deltas or key in replaced)
        if delta is None and key in renewed:
            delta = table.row(key)  # nothing but its place in the order changed
        if delta is not None:
            deltas.pop(key, None)  # deleted and added anew: its place is where it was added
            deltas[key] = delta
    if not deltas:
        return None
    packed = [merge.pack(delta) for delta in deltas.values()]
    return Part(table, list(deltas), packed, [], [key for key in renewed if key in deltas], {})


def _is_dead(table: FieldsTable, key: Any) -> bool:
    row = table.row(key)
    return row is not None and not row.alive


def _delta(table: FieldsTable, key: Any, text: str, stamp: merge.Stamp, anew: bool) -> merge.Row | None:
    value = decode(text)
    old = table.row(key)
    if not isinstance(value, dict):
        same = old is not None and old.kind == "value" and old.body == text and not anew
        return None if same else merge.Row("value", stamp, True, text)
    counters = frozenset(table.options.get("counters", ()))
    sets = frozenset(table.options.get("sets", ()))
    if old is not None and (anew or not old.alive or old.kind == "value"):
        return merge.replacement(value, stamp, encode, counters=counters, sets=sets)
    return merge.difference(old, value, stamp, encode, counters=counters, sets=sets)


def text_after(table: FieldsTable, key: Any, delta: bytes) -> str | bytes | None:
    """What the key would read as, had this change been stored; None if it deletes the key."""
    change = merge.unpack(delta)
    base = table.row(key)
    return table.text_of(change if base is None else merge.join(base, change))
