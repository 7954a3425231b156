"""A Dict does what a dict does, whatever is synced, folded, evicted, undone or reopened between two steps.

The model is a plain dict per structure, with its values as they were at the last sync beside it. References that
are held at any depth are compared too: a reference and its model go through the same changes.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import holdfast
from holdfast import codec
from holdfast.journal import fold
from holdfast.structures import scanning

KEYS = [
    "a", "b", "c", "ü", "", "1", "\ud800x", "nul\x00", 0, 1, True, False, 1.0, 0.0, -7, 2**70, 0.5, float("inf"), None,
    (), ("a", 1), ("a", True), ("a", (None, 2.0)), ("a", (None, 2)),
]  # fmt: skip
keys = st.sampled_from(["a", "b", 0, 1, True, 1.0, None]) | st.sampled_from(KEYS)
names = st.sampled_from(["n", "m", "ö", "", "\udfff", '"q'])
scalars = st.sampled_from(
    [None, True, False, 0, 1, -1, 2**63, -(2**90), 0.5, 1e300, float("inf"), "", "x", "\ud800", "é\x00"]
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
SMALL = {
    (fold, "SLICE_ROWS"): 2,
    (fold, "SLICE_KEYS"): 2,
    (fold, "LEAST_BACKLOG"): 4,
    (fold, "MOST_BATCHES"): 9,
    (fold, "KEPT_BATCHES"): 3,
    (fold, "DELETED_AT_ONCE"): 1,
    (scanning, "PAGE"): 2,
}


class Undo(Exception):
    """Leaves a transaction."""


def fresh(value: Any) -> Any:
    """A copy of which no part is in two places."""
    if isinstance(value, dict):
        return {key: fresh(one) for key, one in dict.items(value)}
    return [fresh(one) for one in list.__iter__(value)] if isinstance(value, list) else value


def overwrite(old: Any, new: Any) -> Any:
    """The model of undoing: containers that stay in place stay the same objects."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [n for n in old if n not in new]:
            del old[name]
        for name, value in new.items():
            old[name] = overwrite(old.get(name), value)
        return old
    if isinstance(old, list) and isinstance(new, list):
        old[:] = [overwrite(old[i] if i < len(old) else None, value) for i, value in enumerate(new)]
        return old
    return fresh(new)


def change_dict(draw: Any, real: Any, model: Any) -> None:
    """One change of a nested dict and of its model."""
    name, value = draw(names), draw(values)
    what = draw(
        st.sampled_from(["set", "del", "pop", "popitem", "clear", "update", "setdefault", "|=", "kw"])
    )
    if what == "set":
        real[name] = value
        model[name] = fresh(value)
    elif what == "del" and name in model:
        del real[name]
        del model[name]
    elif what == "pop":
        assert same(real.pop(name, None), model.pop(name, None))
    elif what == "popitem" and model:
        assert same(real.popitem(), model.popitem())
    elif what == "clear":
        real.clear()
        model.clear()
    elif what == "update":
        real.update({name: value, "u": [value]})
        model.update(fresh({name: value, "u": [value]}))
    elif what == "kw":
        real.update([("k", value)], j=value)
        model.update(fresh({"k": value, "j": value}))
    elif what == "setdefault":
        assert same(real.setdefault(name, value), model.setdefault(name, fresh(value)))
    elif what == "|=":
        real |= {name: value}
        model |= {name: fresh(value)}


def change_list(draw: Any, real: Any, model: Any) -> None:
    """One change of a nested list and of its model."""
    value = draw(values)
    at = draw(st.integers(0, max(len(model) - 1, 0)))
    what = draw(
        st.sampled_from(
            ["append", "extend", "insert", "set", "slice", "del", "cut", "pop", "remove", "clear", "sort", "*=", "+=",
             "reverse", "itself"]
        )
    )  # fmt: skip
    if what == "append":
        real.append(value)
        model.append(fresh(value))
    elif what == "extend":
        real.extend([value, 1])
        model.extend([fresh(value), 1])
    elif what == "itself" and len(model) < 20:
        real.extend(real)
        model.extend(fresh(model))
    elif what == "insert":
        real.insert(at, value)
        model.insert(at, fresh(value))
    elif what == "set" and model:
        real[at] = value
        model[at] = fresh(value)
    elif what == "slice":
        real[at : at + 2] = [value, value]
        model[at : at + 2] = [fresh(value), fresh(value)]
    elif what == "del" and model:
        del real[at]
        del model[at]
    elif what == "cut":
        del real[::2]
        del model[::2]
    elif what == "pop" and model:
        assert same(real.pop(at), model.pop(at))
    elif what == "remove" and model:
        gone = fresh(model[at])
        real.remove(gone)
        del model[model.index(gone)]
    elif what == "clear":
        real.clear()
        model.clear()
    elif what == "sort":
        before = list(model)
        try:
            model.sort()
        except TypeError:
            model[:] = before
            with pytest.raises(TypeError):
                real.sort()
        else:
            real.sort()
    elif what == "*=" and len(model) < 10:
        real *= 2
        model.extend(fresh(model))
    elif what == "+=":
        real += [value]
        model += [fresh(value)]
    elif what == "reverse":
        real.reverse()
        model.reverse()


def change(draw: Any, real: Any, model: Any) -> None:
    assert isinstance(real, dict) == isinstance(model, dict)
    (change_dict if isinstance(model, dict) else change_list)(draw, real, model)


def same(real: Any, model: Any) -> bool:
    """Equal, and no bool passes for an int."""
    return bool(real == model) and spelled(real) == spelled(model)


def spelled(value: Any) -> str:
    if isinstance(value, tuple):
        return repr([spelled(one) for one in value])
    return json.dumps(value, sort_keys=True)


class Side:
    """One structure: the real one, its model, and what of the model is in the file."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name = name
        self.options = options
        self.real: Any = None
        self.now: dict[Any, Any] = {}
        self.stored: dict[Any, Any] = {}
        self.held: list[tuple[Any, Any]] = []

    def undo(self) -> None:
        before, self.now = self.now, {}
        for key, value in self.stored.items():
            self.now[key] = overwrite(before.get(key), value)


class DictMachine(RuleBasedStateMachine):
    """Steps on a hold, on one file, in one process."""

    OPEN: dict[str, Any] = {}
    DICTS: dict[str, dict[str, Any]] = {"one": {}, "two": {}}
    SYNCS_ITSELF = False  # so that nobody can say what `revert` goes back to

    def __init__(self) -> None:
        super().__init__()
        self.before = {where: getattr(*where) for where in SMALL}
        for (module, name), value in SMALL.items():
            setattr(module, name, value)
        self.place = Path(tempfile.mkdtemp(prefix="holdfast-model-"))
        self.sides = [Side(name, options) for name, options in self.DICTS.items()]
        self.transaction: Any = None

    @initialize()
    def open(self) -> None:
        options = {"sync_changes": 100_000, "sync_seconds": None, **self.OPEN}
        self.hold = holdfast.open(self.place / "model.hold", **options)
        for side in self.sides:
            side.real = self.hold.dict(side.name, **side.options)
            side.held = []

    def teardown(self) -> None:
        try:
            if self.sides[0].real is not None:
                self.finish()
        finally:
            for (module, name), value in self.before.items():
                setattr(module, name, value)
            shutil.rmtree(self.place)

    def finish(self) -> None:
        try:
            if self.transaction is not None:
                self.commit()
            self.compare_all()
            self.reopen()
            self.compare_all()
            assert self.hold.check() == []
        finally:
            self.hold.close()

    def pick(self, data: st.DataObject) -> Side:
        return data.draw(st.sampled_from(self.sides))

    def stored_now(self) -> None:
        """Everything is in the file, unless a transaction keeps it."""
        if self.transaction is None:
            for side in self.sides:
                side.stored = fresh(side.now)

    def after_write(self) -> None:
        if self.OPEN.get("shared"):
            self.stored_now()

    # -- what a dict does -------------------------------------------------------------------------------------

    @rule(data=st.data(), key=keys, value=values)
    def set(self, data: st.DataObject, key: Any, value: Any) -> None:
        side = self.pick(data)
        side.real[key] = value
        side.now[key] = fresh(value)
        self.after_write()

    @rule(data=st.data(), key=keys)
    def delete(self, data: st.DataObject, key: Any) -> None:
        side = self.pick(data)
        if key in side.now:
            del side.real[key]
            del side.now[key]
        else:
            with pytest.raises(KeyError):
                del side.real[key]
        self.after_write()

    @rule(data=st.data(), key=keys)
    def pop(self, data: st.DataObject, key: Any) -> None:
        side = self.pick(data)
        assert same(side.real.pop(key, "none"), side.now.pop(key, "none"))
        self.after_write()

    @rule(data=st.data(), last=st.booleans())
    def popitem(self, data: st.DataObject, last: bool) -> None:
        side = self.pick(data)
        if not side.now:
            with pytest.raises(KeyError):
                side.real.popitem()
            return
        key = list(side.now)[-1 if last else 0]
        got = side.real.popitem(last)
        assert got[0] == key and same(got[1], side.now.pop(key))
        self.after_write()

    @rule(data=st.data(), key=keys, value=values)
    def setdefault(self, data: st.DataObject, key: Any, value: Any) -> None:
        side = self.pick(data)
        assert same(side.real.setdefault(key, value), side.now.setdefault(key, fresh(value)))
        self.after_write()

    @rule(
        data=st.data(),
        new=st.dictionaries(keys, values, max_size=4),
        how=st.sampled_from(["map", "pairs", "|="]),
    )
    def update(self, data: st.DataObject, new: dict[Any, Any], how: str) -> None:
        side = self.pick(data)
        if how == "|=":
            side.real |= new
        else:
            side.real.update(new if how == "map" else list(new.items()), kw=1)
            new = {**new, "kw": 1}
        side.now.update(fresh(new))
        self.after_write()

    @rule(data=st.data())
    def clear(self, data: st.DataObject) -> None:
        side = self.pick(data)
        if data.draw(st.integers(0, 4)) == 0:
            side.real.clear()
            side.now.clear()
            self.after_write()

    @rule(data=st.data(), key=keys)
    def move_to_end(self, data: st.DataObject, key: Any) -> None:
        side = self.pick(data)
        if key in side.now:
            side.real.move_to_end(key)
            side.now[key] = side.now.pop(key)
        else:
            with pytest.raises(KeyError):
                side.real.move_to_end(key)
        self.after_write()

    @rule(data=st.data(), key=keys)
    def read(self, data: st.DataObject, key: Any) -> None:
        side = self.pick(data)
        assert (key in side.real) == (key in side.now)
        assert same(side.real.get(key, "none"), side.now.get(key, "none"))

    # -- at depth ---------------------------------------------------------------------------------------------

    @rule(data=st.data())
    def hold_reference(self, data: st.DataObject) -> None:
        side = self.pick(data)
        containers = [key for key, value in side.now.items() if isinstance(value, (dict, list))]
        if not containers:
            return
        key = data.draw(st.sampled_from(containers))
        real, model = side.real[key], side.now[key]
        for _ in range(data.draw(st.integers(0, 3))):
            inner = [
                step
                for step, value in (model.items() if isinstance(model, dict) else enumerate(model))
                if isinstance(value, (dict, list))
            ]
            if not inner:
                break
            step = data.draw(st.sampled_from(inner))
            real, model = real[step], model[step]
        side.held = [*side.held[-4:], (real, model)]

    @rule(data=st.data())
    def change_held(self, data: st.DataObject) -> None:
        side = self.pick(data)
        if side.held:
            change(data.draw, *data.draw(st.sampled_from(side.held)))
            self.after_write()

    @rule(data=st.data())
    def change_inside(self, data: st.DataObject) -> None:
        side = self.pick(data)
        containers = [key for key, value in side.now.items() if isinstance(value, (dict, list))]
        if containers:
            key = data.draw(st.sampled_from(containers))
            change(data.draw, side.real[key], side.now[key])
            self.after_write()

    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        self.pick(data).held.clear()

    @rule(data=st.data(), key=keys, value=values)
    def through_set(self, data: st.DataObject, key: Any, value: Any) -> None:
        side = self.pick(data)
        if isinstance(side.now.get(key), dict):
            side.real.set[key]["set"] = value
            side.now[key]["set"] = fresh(value)
        elif isinstance(side.now.get(key), list):
            side.real.set[key] += [value]
            side.now[key] += [fresh(value)]
        elif side.now.get(key).__class__ is int:
            side.real.set[key] += 1
            side.now[key] += 1
        else:
            side.real.set[key] = value
            side.now[key] = fresh(value)
        self.after_write()

    @rule(data=st.data(), key=keys)
    def error_inside_set(self, data: st.DataObject, key: Any) -> None:
        side = self.pick(data)
        if isinstance(side.now.get(key), list) and len(side.now[key]) > 1:
            with pytest.raises((TypeError, ZeroDivisionError)):
                side.real.set[key].sort(key=lambda _: 1 // 0)
        elif isinstance(side.now.get(key), dict):
            with pytest.raises(holdfast.InvalidError):
                side.real.set[key].update({"fine": 1, "bad": {1}})

    @rule(data=st.data(), key=keys)
    def refuse(self, data: st.DataObject, key: Any) -> None:
        side = self.pick(data)
        if side.options.get("serializer", "json") == "json":
            with pytest.raises(holdfast.InvalidError):
                side.real[key] = {"fine": 1, "bad": [object()]}
            if isinstance(side.now.get(key), dict):
                with pytest.raises(holdfast.InvalidError):
                    side.real[key].update({"fine": 1, "bad": b"x"})

    # -- going over it ----------------------------------------------------------------------------------------

    @rule(data=st.data(), stop=st.integers(0, 6))
    def change_while_iterating(self, data: st.DataObject, stop: int) -> None:
        side = self.pick(data)
        for count, (key, value) in enumerate(side.real.items()):
            if count == stop:
                break
            if isinstance(value, (dict, list)):
                change(data.draw, value, side.now[key])
                if data.draw(st.booleans()):
                    side.held = [*side.held[-4:], (value, side.now[key])]
                if data.draw(st.integers(0, 3)) == 0:
                    new, old = data.draw(values), side.now[key]
                    side.real[key], side.now[key] = new, fresh(new)
                    value.clear()  # it is nobody's any more
                    old.clear()
            elif data.draw(st.booleans()):
                side.real[key] = side.now[key] = count
            if count == 1 and data.draw(st.integers(0, 3)) == 0:
                self.sync()
        self.after_write()

    @rule(data=st.data(), value=values)
    def add_while_iterating(self, data: st.DataObject, value: Any) -> None:
        side = self.pick(data)
        at = data.draw(st.integers(0, len(side.now)))
        seen = []
        for count, key in enumerate(side.real):
            if count == at:
                for new in ("late", ("late", 1)):
                    side.real[new] = value
                    side.now[new] = fresh(value)
            seen.append(key)
        assert seen == list(side.now)
        self.after_write()

    def compare(self, side: Side, how: str) -> None:
        real, now = side.real, side.now
        assert list(real) == list(now)
        assert all(codec.plain_key(key).__class__ is key.__class__ for key in real)
        if how == "items":
            found = [(key, fresh(value)) for key, value in real.items()]
        elif how == "values":
            found = list(zip(real.keys(), (fresh(value) for value in real.values())))
        elif how == "backwards":
            found = [(key, real[key]) for key in reversed(real)][::-1]
        else:
            found = [(key, real[key]) for key in now]
        for (key, value), (wanted_key, wanted) in zip(found, now.items(), strict=True):
            assert key == wanted_key
            assert same(value, wanted), f"{key!r}: {value!r} instead of {wanted!r}"

    @rule(data=st.data(), how=st.sampled_from(["items", "values", "backwards", "keys"]))
    def look(self, data: st.DataObject, how: str) -> None:
        side = self.pick(data)
        self.compare(side, how)
        assert side.real == side.now
        assert (side.real | {"or": 1}) == (side.now | {"or": 1})
        assert list({"or": 1} | side.real) == list({"or": 1} | side.now)

    def compare_all(self) -> None:
        for side in self.sides:
            self.compare(side, "items")

    @invariant()
    def size_is_right(self) -> None:
        for side in self.sides:
            if side.real is not None:
                assert len(side.real) == len(side.now)
                assert bool(side.real) == bool(side.now)

    @invariant()
    def held_are_right(self) -> None:
        for side in self.sides:
            for real, model in side.held:
                assert same(real, model), f"{real!r} instead of {model!r}"

    # -- between steps ----------------------------------------------------------------------------------------

    @rule()
    def sync(self) -> None:
        self.hold.sync()
        self.stored_now()
        if self.transaction is None:
            assert not any(side.real.dirty() for side in self.sides)

    @rule()
    def fold(self) -> None:
        if self.transaction is None:
            self.hold.fold()
            self.stored_now()

    @rule()
    def fold_a_slice(self) -> None:
        journal = self.hold._journal
        if self.transaction is None:
            self.hold.sync()
            with journal.writing(), journal.lock:
                journal.folder.step()
            self.stored_now()

    @precondition(lambda self: not self.SYNCS_ITSELF)
    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        side = self.pick(data)
        side.real.revert()
        side.undo()

    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        self.pick(data).real.pause()

    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        self.pick(data).real.resume()

    @rule(data=st.data(), key=keys)
    def mark_dirty(self, data: st.DataObject, key: Any) -> None:
        side = self.pick(data)
        if key in side.now:
            side.real.mark_dirty(key)

    @rule(data=st.data(), key=keys)
    def sync_key(self, data: st.DataObject, key: Any) -> None:
        side = self.pick(data)
        if key in side.now:
            side.real.sync_key(key)
            self.stored_now()

    @precondition(lambda self: self.transaction is None)
    @rule()
    def reopen(self) -> None:
        self.hold.close()
        self.open()
        self.stored_now()

    @precondition(lambda self: self.transaction is None)
    @rule()
    def begin(self) -> None:
        self.transaction = self.hold.transaction()
        self.transaction.__enter__()
        for side in self.sides:
            side.stored = fresh(side.now)

    @precondition(lambda self: self.transaction is not None)
    @rule()
    def join(self) -> None:
        with self.hold.transaction():
            self.sides[0].real["joined"] = 1
            self.sides[0].now["joined"] = 1

    def commit(self) -> None:
        transaction, self.transaction = self.transaction, None
        transaction.__exit__(None, None, None)
        self.stored_now()

    @precondition(lambda self: self.transaction is not None)
    @rule()
    def end(self) -> None:
        self.commit()

    @precondition(lambda self: self.transaction is not None)
    @rule()
    def roll_back(self) -> None:
        transaction, self.transaction = self.transaction, None
        transaction.__exit__(Undo, Undo(), None)
        for side in self.sides:
            side.undo()


class SharedMachine(DictMachine):
    OPEN = {"shared": True}


class ForgetfulMachine(DictMachine):
    """Hot values are let go of at nearly every read."""

    OPEN = {"cache_bytes": 500}


class EagerMachine(DictMachine):
    """Syncs by itself every few changes."""

    OPEN = {"sync_changes": 3, "cache_bytes": 2000}
    SYNCS_ITSELF = True


class WriteThroughMachine(DictMachine):
    OPEN = {"durability": "write"}
    SYNCS_ITSELF = True


class FieldsMachine(DictMachine):
    DICTS = {"one": {"merge": "fields"}, "two": {"merge": "fields", "ephemeral": ["eph"]}}


class SharedFieldsMachine(FieldsMachine):
    OPEN = {"shared": True, "cache_bytes": 500}


class OpaqueMachine(DictMachine):
    """Another serializer: a value is opaque, so only whole values are changed."""

    DICTS = {"one": {"serializer": "pickle"}, "two": {"serializer": "pickle"}}

    def change_held(self) -> None: ...
    def change_inside(self) -> None: ...
    def hold_reference(self) -> None: ...
    def through_set(self) -> None: ...
    def error_inside_set(self) -> None: ...
    def change_while_iterating(self) -> None: ...


quick = settings(stateful_step_count=30, report_multiple_bugs=False)
for machine in (
    DictMachine,
    SharedMachine,
    ForgetfulMachine,
    EagerMachine,
    WriteThroughMachine,
    FieldsMachine,
    SharedFieldsMachine,
    OpaqueMachine,
):
    case = machine.TestCase
    case.settings = quick
    globals()[f"Test{machine.__name__}"] = case
