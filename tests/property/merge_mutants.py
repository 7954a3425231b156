"""The rules of merging, each broken once, with the law of `test_merge` that must notice."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """`right`, which stands once in the source, becomes `wrong`."""

    rule: str
    right: str
    wrong: str
    caught_by: str


_EPOCH = "return a if a.epoch > b.epoch else b"
_STANDING = """epoch, body = (old.epoch, old.body) if old is not None and standing else (self._first_epoch(old), {})
        """
_NO_EPOCH = """body, epoch = old.body if old is not None and standing else {}, self._first_epoch(old)
        """
_COMMUTES = "test_join_is_commutative"
_ASSOCIATES = "test_join_is_associative"
_REPEATS = "test_join_is_idempotent"
_CONVERGE = "test_replicas_converge"
_READS_AS_NEW = "test_a_delta_joined_to_the_old_row_reads_as_the_new_value"
_ONLY_WHAT_DIFFERS = "test_a_delta_holds_only_what_differs"
_SAME_ENTRY = "test_two_who_create_the_same_entry_join"
_SAME_FIELD = "test_two_who_create_the_same_field_join"
_OUTLIVES = "test_what_is_put_where_something_stood_outlives_it"
_REPLACES = "test_what_replaces_wins_over_concurrent_edits_of_what_was"
_PACKED = "test_a_packed_row_comes_back"
_PARTED = "test_a_value_and_its_stamps_make_the_row_again"
_PLACES = "test_places_outside_the_list_of_stamps_are_refused"
_OUTSIDE = "test_a_value_that_was_changed_from_outside_is_seen"
_DEEP = "test_very_deep_dicts_are_kept"

_JOINING = [
    Mutant(
        "the higher epoch wins",
        _EPOCH,
        "return a if a.epoch < b.epoch else b",
        "test_the_higher_epoch_wins_whole",
    ),
    Mutant(
        "an epoch is more than its clock", _EPOCH, "return a if a.epoch[0] > b.epoch[0] else b", _COMMUTES
    ),
    Mutant("the later edit does not win over the epoch", _EPOCH, "return max(a, b, key=newest)", _COMMUTES),
    Mutant(
        "other epochs are not joined",
        "if a.epoch != b.epoch:",
        "if a.epoch != b.epoch and a.kind != b.kind:",
        "test_the_higher_epoch_wins_whole",
    ),
    Mutant(
        "the epoch wins whole, also over fields",
        "if a.epoch != b.epoch:",
        "if a.epoch != b.epoch and not (a.kind == b.kind == 'fields'):",
        _REPLACES,
    ),
    Mutant(
        "dead wins over alive",
        "return b if a.alive else a",
        "return a if a.alive else b",
        "test_a_deletion_wins_over_what_has_its_stamp",
    ),
    Mutant("dead and alive are told apart", "if a.alive != b.alive:", "if False:", _COMMUTES),
    Mutant("kinds have an order", "return a if _RANK[a.kind] > _RANK[b.kind] else b", "return a", _COMMUTES),
    Mutant(
        "the greater value wins a tie",
        "return max(a, b, key=_order)",
        "return min(a, b, key=_order)",
        "test_of_two_values_with_one_stamp_the_greater_text_wins",
    ),
    Mutant("values with one stamp have an order", "return max(a, b, key=_order)", "return a", _COMMUTES),
    Mutant(
        "bytes come after text",
        "else (2, body)",
        "else (0, body)",
        "test_bytes_win_over_text_with_the_same_stamp",
    ),
    Mutant("fields are joined", "theirs if ours is None else join(ours, theirs)", "theirs", _COMMUTES),
    Mutant(
        "new fields are taken", "theirs if ours is None else join(ours, theirs)", "ours or theirs", _COMMUTES
    ),
    Mutant(
        "fields are united",
        "    for name, theirs in b.items():\n",
        "    for name, theirs in ((n, t) for n, t in b.items() if n in a):\n",
        _COMMUTES,
    ),
    Mutant("plus takes the greater", "max(mine[0], plus)", "plus", _COMMUTES),
    Mutant("minus takes the greater", "max(mine[1], minus)", "minus", _COMMUTES),
    Mutant("counts are not added up", "max(mine[0], plus)", "mine[0] + plus", _REPEATS),
    Mutant(
        "plus and minus go by themselves",
        "max(mine[0], plus), max(mine[1], minus)",
        "max(mine, (plus, minus))",
        "test_of_each_count_the_greater_is_kept",
    ),
    Mutant(
        "elements go by their stamps", "theirs, key=_removal_last)", "theirs, key=lambda _: 0)", _COMMUTES
    ),
    Mutant(
        "the newer element wins",
        "return stamp, not alive",
        "return (not alive, stamp)",
        "test_of_an_element_the_newer_version_is_kept",
    ),
    Mutant(
        "a removal wins a tie",
        "return stamp, not alive",
        "return stamp, alive",
        "test_of_an_element_the_newer_version_is_kept",
    ),
    Mutant("records with one place have an order", "max(joined.get(place, text), text)", "text", _COMMUTES),
    Mutant(
        "joining changes neither row",
        "def _join_fields(a: dict[str, Row], b: dict[str, Row]) -> dict[str, Row]:\n    joined = dict(a)",
        "def _join_fields(a: dict[str, Row], b: dict[str, Row]) -> dict[str, Row]:\n    joined = a",
        "test_joining_leaves_both_as_they_were",
    ),
]

_READING = [
    Mutant(
        "the newest stamp may be in a field",
        "max((row.epoch[0], *map(newest, row.body.values())))",
        "row.epoch[0]",
        "test_newest_is_the_greatest_stamp_anywhere",
    ),
    Mutant(
        "the newest stamp may be an element's",
        "max((row.epoch[0], *(stamp[0] for stamp, _ in versions.values())))",
        "row.epoch[0]",
        "test_newest_is_the_greatest_stamp_anywhere",
    ),
    Mutant(
        "dead fields do not show",
        "for name, field in body.items() if field.alive}",
        "for name, field in body.items()}",
        _READS_AS_NEW,
    ),
    Mutant(
        "removed elements do not show",
        "for element, (_, alive) in body.items() if alive)",
        "for element in body)",
        _READS_AS_NEW,
    ),
    Mutant("minus counts down", "sum(plus - minus for", "sum(plus + minus for", _READS_AS_NEW),
    Mutant(
        "named fields are left out", "if name not in names}", "}", "test_only_the_named_fields_are_left_out"
    ),
    Mutant(
        "other fields are not left out",
        "if name not in names}",
        "if name < min(names)}",
        "test_only_the_named_fields_are_left_out",
    ),
    Mutant(
        "leaving out keeps the epoch",
        "return row._replace(body={",
        "return row._replace(epoch=FLOOR, body={",
        "test_leaving_fields_out_commutes_with_joining",
    ),
]

_WRITING = [
    Mutant(
        "a new entry starts at the floor",
        "return writer.new(new_value, FLOOR, 0)",
        "return writer.new(new_value, stamp, 0)",
        _SAME_ENTRY,
    ),
    Mutant(
        "adding anew starts a new epoch",
        "if not old.alive or old.kind",
        "if not old.alive:\n        return writer.new(new_value, FLOOR, 0)\n    if old.kind",
        _READS_AS_NEW,
    ),
    Mutant(
        "a dict in place of a value starts a new epoch",
        '    if not old.alive or old.kind != "fields":\n        return writer.new(new_value, stamp, 0)',
        '    if not old.alive or old.kind != "fields":\n        return writer.new(new_value, old.epoch, 0)',
        _REPLACES,
    ),
    Mutant(
        "replacing starts a new epoch",
        "counters, sets).new(new_value, stamp, 0)",
        "counters, sets).new(new_value, FLOOR, 0)",
        _REPLACES,
    ),
    Mutant(
        "a deletion is dead",
        'return Row("value", stamp, False, None)',
        'return Row("value", stamp, True, "null")',
        _READS_AS_NEW,
    ),
    Mutant(
        "a delta stays in the epoch",
        'Row("fields", old.epoch, True, changes)',
        'Row("fields", self.stamp, True, changes)',
        _CONVERGE,
    ),
    Mutant(
        "a missing field is deleted", "if row.alive and name not in new_value:", "if False:", _READS_AS_NEW
    ),
    Mutant(
        "a deleted field is not deleted again",
        "if row.alive and name not in new_value:",
        "if name not in new_value:",
        _READS_AS_NEW,
    ),
    Mutant(
        "deleted fields get the new stamp",
        "changes[name] = _dead(self.stamp)",
        "changes[name] = _dead(row.epoch)",
        "test_of_an_edit_and_a_deletion_of_a_field_the_later_is_kept",
    ),
    Mutant(
        "a value is stamped anew",
        'return Row("value", self.stamp, True, self.encode(one))',
        'return Row("value", old.epoch if old else self.stamp, True, self.encode(one))',
        _READS_AS_NEW,
    ),
    Mutant(
        "what is the same is not written",
        "and old.body == self.encode(one):",
        "and old.body is one:",
        _ONLY_WHAT_DIFFERS,
    ),
    Mutant(
        "a dead field is not the same as null",
        "and old.alive and old.body == self.encode(one)",
        'and (old.body or "null") == self.encode(one)',
        _READS_AS_NEW,
    ),
    Mutant("nothing is None", "True, changes) if changes else None", "True, changes)", _ONLY_WHAT_DIFFERS),
    Mutant("dicts merge inside", "if isinstance(one, dict) and depth < MAX_DEPTH:", "if False:", _SAME_FIELD),
    Mutant(
        "dicts differ inside",
        'if old is not None and old.kind == "fields":',
        "if False:",
        "test_edits_of_different_leaves_are_both_kept",
    ),
    Mutant(
        "new fields start at the floor",
        "return FLOOR if old is None else self.stamp",
        "return self.stamp",
        _SAME_FIELD,
    ),
    Mutant(
        "what replaces a field starts an epoch",
        "return FLOOR if old is None else self.stamp",
        "return FLOOR",
        _OUTLIVES,
    ),
    Mutant("dicts merge only so deep", "and depth < MAX_DEPTH:", "and depth < 3 * MAX_DEPTH:", _DEEP),
    Mutant("counters are those named", "(top and name in self.counters)", "False", _SAME_ENTRY),
    Mutant("sets are those named", "(top and name in self.sets)", "False", _SAME_ENTRY),
    Mutant(
        "counters are named at the top",
        "(top and name in self.counters)",
        "name in self.counters",
        "test_a_counter_holds_ints_alone",
    ),
    Mutant(
        "sets are named at the top",
        "(top and name in self.sets)",
        "name in self.sets",
        "test_a_set_holds_lists_of_different_values_alone",
    ),
    Mutant(
        "a counter stays one",
        '(kind == "counter" and one.__class__ is int)',
        "False",
        "test_a_field_stays_what_it_is_for_writers_that_were_not_told",
    ),
    Mutant(
        "a set stays one",
        '(kind == "set" and isinstance(one, list))',
        "False",
        "test_a_field_stays_what_it_is_for_writers_that_were_not_told",
    ),
    Mutant("a counter holds ints", "if one.__class__ is not int or", "if", "test_a_counter_holds_ints_alone"),
    Mutant(
        "a counter is no flag",
        "if one.__class__ is not int or",
        "if not isinstance(one, int) or",
        "test_a_counter_holds_ints_alone",
    ),
    Mutant(
        "a counter has an end",
        "or one.bit_length() > COUNTER_BITS:",
        "or False:",
        "test_a_counter_holds_ints_alone",
    ),
    Mutant("a counter steps by the difference", "step = one - _total(body)", "step = one", _READS_AS_NEW),
    Mutant(
        "a counter steps from where the node is",
        "plus, minus = body.get(node, (0, 0))",
        "plus, minus = 0, 0",
        "test_counters_are_exact_whatever_the_order_of_delivery",
    ),
    Mutant(
        "only the own count is stepped",
        "node = self.stamp[1]",
        "node = min(body, default=self.stamp[1])",
        "test_counters_are_exact_whatever_the_order_of_delivery",
    ),
    Mutant(
        "a count never falls",
        "(plus + max(step, 0), minus + max(-step, 0))",
        "(plus + step, minus)",
        _READS_AS_NEW,
    ),
    Mutant(
        "a counter that stands still is not written",
        "return None if standing else Row",
        "return Row",
        _ONLY_WHAT_DIFFERS,
    ),
    Mutant(
        "a counter of 0 is written",
        'return None if standing else Row("counter", epoch, True, {})',
        "return None",
        _READS_AS_NEW,
    ),
    Mutant(
        "a counter keeps its epoch",
        f"{_STANDING}step",
        f"{_NO_EPOCH}step",
        _READS_AS_NEW,
    ),
    Mutant(
        "a set keeps its epoch",
        f"{_STANDING}present",
        f"{_NO_EPOCH}present",
        _READS_AS_NEW,
    ),
    Mutant(
        "new elements are added",
        "for element in wanted if element not in present}",
        "for element in ()}",
        _READS_AS_NEW,
    ),
    Mutant(
        "standing elements are not added again",
        "for element in wanted if element not in present}",
        "for element in wanted}",
        _ONLY_WHAT_DIFFERS,
    ),
    Mutant(
        "missing elements are removed",
        "for element in present if element not in wanted)",
        "for element in ())",
        _READS_AS_NEW,
    ),
    Mutant(
        "an empty set is written",
        "True, changes) if changes or not standing else None",
        "True, changes) if changes else None",
        _READS_AS_NEW,
    ),
    Mutant(
        "a set that is the same is not written",
        "True, changes) if changes or not standing else None",
        "True, changes)",
        _ONLY_WHAT_DIFFERS,
    ),
    Mutant(
        "a set is a list",
        "if isinstance(one, list) else {}\n        if not isinstance(one, list) or",
        "\n        if",
        "test_a_set_holds_lists_of_different_values_alone",
    ),
    Mutant(
        "a set has no duplicates",
        " or len(wanted) != len(one):",
        ":",
        "test_a_set_holds_lists_of_different_values_alone",
    ),
]

_BYTES = [
    Mutant(
        "the format is checked",
        "if stored[:1] != _FORMAT:",
        "if False:",
        "test_other_formats_are_refused_with_what_to_do",
    ),
    Mutant(
        "the format is what it was",
        '_FORMAT = b"\\x01"',
        '_FORMAT = b"\\x02"',
        "test_the_bytes_are_those_of_format_1",
    ),
    Mutant("the floor is known to the reader", "[FLOOR, *written], 0)", "[*written], 0)", _PACKED),
    Mutant(
        "dead fields are packed as such",
        '    if not row.alive:\n        return ~at\n    body = row.body\n    if row.kind == "value":',
        '    body = row.body\n    if row.kind == "value":',
        _PACKED,
    ),
    Mutant(
        "bytes are packed as bytes",
        "return _Text(at, body) if isinstance(body, str) else _Blob(at, body)",
        "return _Text(at, str(body))",
        _PACKED,
    ),
    Mutant(
        "great counts are packed",
        "return number if number < 1 << 63 else",
        "return number if True else",
        _PACKED,
    ),
    Mutant(
        "removed elements are packed as such",
        "at = stamps.place(stamp)\n    return at if alive else ~at",
        "return stamps.place(stamp)",
        _PACKED,
    ),
    Mutant(
        "names that msgpack can't hold are spelled",
        'return json.dumps(name) if name[:1] == \'"\' or any("\\ud800" <= c <= "\\udfff" for c in name) else name',
        "return name",
        _PACKED,
    ),
    Mutant(
        "names with a quote are spelled",
        "if name.isascii() and name[:1] != '\"':",
        "if name.isascii():",
        _PACKED,
    ),
    Mutant(
        "the depth of packed rows is bounded",
        "if depth > MAX_DEPTH:",
        "if False:",
        "test_bytes_nested_too_deep_are_refused",
    ),
    Mutant("a dead field's place is written so", "if at >= 0:", "if False:", _PLACES),
    Mutant(
        "places are no negative numbers",
        "    at: _Whole\n    text: str",
        "    at: int\n    text: str",
        _PLACES,
    ),
    Mutant(
        "damage becomes CorruptError",
        "_DAMAGE = (msgspec.DecodeError, ValueError, IndexError, RecursionError)",
        "_DAMAGE = (msgspec.DecodeError, ValueError)",
        _PLACES,
    ),
    Mutant(
        "rows read in another epoch's name",
        "stamps = [epoch, FLOOR, *written]",
        "stamps = list(dict.fromkeys([epoch, FLOOR, *written]))",
        "test_the_inner_stamps_do_not_depend_on_the_epoch",
    ),
    Mutant(
        "the inner stamps name only what is unusual",
        "if inner == self.usual:",
        "if False:",
        "test_inner_stamps_are_small",
    ),
    Mutant("the usual stamp is the first", "if self.usual is None:", "if True:", _PARTED),
    Mutant(
        "removed elements are kept beside the value",
        "body.update((element, (self.stamps[at], False))",
        "dict().update((element, (self.stamps[at], False))",
        _PARTED,
    ),
    Mutant(
        "dead fields are kept beside the value",
        "body[name] = _dead(_dead_stamp(inner, self.stamps))",
        "_dead_stamp(inner, self.stamps)",
        _PARTED,
    ),
    Mutant("dead rows come back dead", "    if not alive:\n        return _dead(epoch)\n", "", _PARTED),
    Mutant(
        "elements and stamps are in one order",
        "for element in _elements(body)], gone)",
        "for element in body if body[element][1]], gone)",
        _PARTED,
    ),
    Mutant(
        "records and places are in one order",
        "return _InnerRecords(at, sorted(body))",
        "return _InnerRecords(at, list(body))",
        _PARTED,
    ),
    Mutant("a value for a dead field is seen", '_fit(node >= 0, "a dead field has a value")', "", _OUTSIDE),
    Mutant(
        "another count is seen",
        '_fit(value.__class__ is int and value == _total(body), "a counter does not have its value")',
        "",
        _OUTSIDE,
    ),
    Mutant(
        "a missing element is seen",
        '_fit(isinstance(value, list) and len(value) == len(node.alive), "elements of a set are missing")',
        "",
        _OUTSIDE,
    ),
    Mutant(
        "a missing field is seen",
        'raise ValueError(f"the field {name!r} has no value")',
        "inner = -1",
        _OUTSIDE,
    ),
    Mutant(
        "a missing dict is seen", '_fit(isinstance(value, dict), "the fields have no dict")', "", _OUTSIDE
    ),
]

MUTANTS = [*_JOINING, *_READING, *_WRITING, *_BYTES]
