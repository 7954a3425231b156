"""Dicts and lists that tell their owner of every change, at any depth and through any reference.

A value is decoded to plain containers and only its root becomes a tracked one; the first touch wraps one level
more and switches the class, so that later reads are the builtin's own. Three states of a container:

    cold   its containers inside are plain; no reading method gives one out before the container is warmed
    warm   its containers inside are tracked (flat: there are none)
    loose  taken out of its structure: it still works, and marks nothing

What is put in is copied (encoded and decoded): it is checked there, and a snapshot is taken.
The stores that must not come apart between threads stand together without a call in between: CPython switches
threads only at calls and loops.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Any, Protocol

from holdfast.codec import SCALARS, decode, encode
from holdfast.errors import ConflictError, InvalidError


class Owner(Protocol):
    """What a tracked container needs of the structure that it stands in."""

    _dirty: dict[Any, Any]
    _scalars: frozenset[type]  # what may be put in unseen
    _careful: bool  # every change goes through `_change`: shared, in a transaction, read-only or closed

    _ticks: Iterator[None]  # ends when a sync may be due; has ended where `_careful`

    def _due(self) -> None: ...
    def _change(self, node: Any, change: Callable[[], Any]) -> Any: ...
    def _nested_key(self, key: object) -> str: ...
    def _dumps(self, value: Any) -> Any: ...
    def _loads(self, stored: Any) -> Any: ...


class Loose:
    """The owner of containers that stand in no structure any more."""

    _careful = False
    _scalars = SCALARS
    _dumps = staticmethod(encode)
    _loads = staticmethod(decode)

    def __init__(self) -> None:
        self._dirty: dict[Any, Any] = _Forgetful()
        self._ticks: Iterator[None] = repeat(None)

    def _due(self) -> None: ...

    def _change(self, node: Any, change: Callable[[], Any]) -> Any:
        return change()

    def _nested_key(self, key: object) -> str:
        return refuse_nested_key(key)


class _Forgetful(dict[Any, Any]):
    def __setitem__(self, key: Any, value: Any) -> None: ...


LOOSE = Loose()


class Copied(Loose):
    """The owner of copies that are given out while a transaction changes the value: a change would be lost."""

    _careful = True

    def __init__(self) -> None:
        super().__init__()
        self._ticks = iter(())

    def _change(self, node: Any, change: Callable[[], Any]) -> Any:
        raise ConflictError(
            f"this is [{node._key!r}] as it was before a transaction that is changing it: read it again when that has "
            "ended, or make the change by `.set` or in a transaction, which wait for it"
        )


COPIED = Copied()


def refuse_nested_key(key: object) -> str:
    """Nested keys are strings, since JSON has no others; a subclass of str is taken as str."""
    if isinstance(key, str):
        return str(key)
    raise InvalidError(
        f"the nested key {key!r} is not a string, and JSON has only string keys: use {str(key)!r}, "
        "or a structure with serializer='pickle' or 'msgpack'"
    )


def track(value: Any, owner: Owner, key: Any) -> Any:
    """A decoded value as it is handed out: a cold tracked container, or the scalar itself."""
    kind = value.__class__
    if kind is dict:
        node: Any = ColdDict(value)
    elif kind is list:
        node = ColdList(value)
    else:
        return value
    node._owner = owner
    node._key = key
    return node


def adopt(value: Any, node: Any) -> Any:
    """What goes into `node` in place of `value`: itself if scalar, else a tracked copy."""
    owner = node._owner
    if value.__class__ in owner._scalars:
        return value
    return track(owner._loads(owner._dumps(value)), owner, node._key)


def loosen(node: Any) -> None:
    """Part a removed container, and all inside it, from its structure."""
    node._owner = LOOSE
    if node.__class__ is WarmDict:
        for inner in dict.values(node):
            if inner.__class__ in NODES:
                loosen(inner)
    elif node.__class__ is WarmList:
        for inner in list.__iter__(node):
            if inner.__class__ in NODES:
                loosen(inner)


def plain(value: Any) -> Any:
    """The value in builtin dicts and lists, nothing shared with `value`."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in dict.items(value)}
    if isinstance(value, list):
        return [plain(v) for v in list.__iter__(value)]
    return value


def overwrite(node: Any, value: Any) -> bool:
    """Make a held container read as `value` (plain), keeping the identity of all that stays in place.

    False if the two are not containers of one kind: then `node` can't be kept.
    """
    if isinstance(node, TrackedDict) and value.__class__ is dict:
        for key in [k for k in dict.keys(node) if k not in value]:
            _drop(dict.pop(node, key))
        for key, new in value.items():
            _overwrite_slot(node, dict, key, dict.get(node, key), new)
        return True
    if isinstance(node, TrackedList) and value.__class__ is list:
        for old in list.__getitem__(node, slice(len(value), None)):
            _drop(old)
        list.__delitem__(node, slice(len(value), None))
        for index, new in enumerate(value[: len(node)]):
            _overwrite_slot(node, list, index, list.__getitem__(node, index), new)
        list.extend(node, [_inside(node, new) for new in value[len(node) :]])
        return True
    return False


def _overwrite_slot(node: Any, base: Any, slot: Any, old: Any, new: Any) -> None:
    if old.__class__ in NODES and overwrite(old, new):
        return
    _drop(old)
    base.__setitem__(node, slot, _inside(node, new))


def _inside(node: Any, value: Any) -> Any:
    if node.__class__ in _COLD:
        return value
    if node.__class__ is FlatDict:
        _switch(node, WarmDict)
    return track(value, node._owner, node._key)


def _drop(value: Any) -> None:
    if value.__class__ in NODES:
        loosen(value)


def references(value: Any) -> int:
    """How many references there are; ALONE if only a container slot and the caller's one local hold it."""
    return sys.getrefcount(value)


# Found by counting, because interpreters differ in what a call adds.
_probe = [object()]
ALONE = [references(one) for one in _probe][0]  # noqa: RUF015 (another shape would count otherwise)


def maybe_held(page: dict[Any, Any]) -> list[Any]:
    """Keys of containers in `page` that somebody else may hold, or that were looked into; quickly."""
    count = sys.getrefcount
    return [key for key, node in page.items() if count(node) > _ALONE_IN_PAGE or node.__class__ not in _COLD]


def is_held_inside(node: Any) -> bool:
    """Whether anything but its own container holds one of the containers inside."""
    if node.__class__ is WarmDict:
        inner: Iterable[Any] = dict.values(node)
    elif node.__class__ is WarmList:
        inner = list.__iter__(node)
    else:
        return False
    return any(one.__class__ in NODES and (references(one) > ALONE or is_held_inside(one)) for one in inner)


_warming = threading.RLock()


def _renew_lock() -> None:
    global _warming
    _warming = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)  # another thread may have held it at the fork


def _switch(node: Any, kind: type) -> None:
    node.__class__ = kind


def _warm(node: Any) -> None:
    """Wrap one level more, and let the builtin do the reading from now on."""
    with _warming:
        owner = node._owner
        key = node._key
        if node.__class__ is ColdDict or node.__class__ is TouchedDict:
            flat = True
            for name, value in dict.items(node):
                if value.__class__ is dict or value.__class__ is list:
                    dict.__setitem__(node, name, track(value, owner, key))
                    flat = False
            _switch(node, FlatDict if flat else WarmDict)
        elif node.__class__ is ColdList:
            for index, value in enumerate(list.__iter__(node)):
                if value.__class__ is dict or value.__class__ is list:
                    list.__setitem__(node, index, track(value, owner, key))
            _switch(node, WarmList)


def _done(node: Any) -> None:
    """Mark a change that was just made, and let the owner sync if it is time."""
    node._owner._dirty[node._key] = None
    owner = node._owner
    try:
        next(owner._ticks)
    except StopIteration:
        owner._due()


def _changer(make: Any, name: str) -> Any:
    """A method that changes its container by `make(node, *args)`, checked, marked and atomic where shared."""

    def method(self: Any, *args: Any, **keywords: Any) -> Any:
        if self.__class__ in _COLD:
            _warm(self)
        if self.__class__ is FlatDict:
            _switch(self, WarmDict)  # what is put in may be a container
        if self._owner._careful:
            return self._owner._change(self, lambda: make(self, *args, **keywords))
        result = make(self, *args, **keywords)
        _done(self)
        return result

    method.__name__ = name
    return method


def _reader(base: type, name: str) -> Any:
    read = getattr(base, name)

    def method(self: Any, *args: Any) -> Any:
        _warm(self)
        return read(self, *args)

    method.__name__ = name
    return method


def _loosened(value: Any) -> Any:
    if value.__class__ in NODES:
        loosen(value)
    return value


_dict_get = dict.__getitem__
_dict_set = dict.__setitem__
_list_set = list.__setitem__


class TrackedDict(dict[str, Any]):
    """A dict inside a structure: any change of it, at any depth, is kept by the structure."""

    __slots__ = ("_key", "_owner")
    _owner: Any
    _key: Any

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (dict, (plain(self),))

    def __hash__(self) -> int:  # type: ignore[override]
        raise TypeError("unhashable type: 'dict'")


def _set_in_dict_carefully(node: Any, key: object, value: Any) -> None:
    def change() -> None:
        if node.__class__ is FlatDict:
            _switch(node, WarmDict)
        name = node._owner._nested_key(key)
        new = adopt(value, node)
        _drop(dict.get(node, name))
        _dict_set(node, name, new)

    if node._owner._careful:
        node._owner._change(node, change)
    else:
        change()
        node._owner._dirty[node._key] = None
        node._owner._due()


def _adopt_items(node: Any, *args: Any, **keywords: Any) -> dict[str, Any]:
    return {node._owner._nested_key(k): adopt(v, node) for k, v in dict(*args, **keywords).items()}


def _dict_update(node: Any, *args: Any, **keywords: Any) -> None:
    new = _adopt_items(node, *args, **keywords)
    for name in new:
        _drop(dict.get(node, name))
    dict.update(node, new)


def _dict_ior(node: Any, other: Any) -> Any:
    _dict_update(node, other)
    return node


def _dict_setdefault(node: Any, key: object, default: Any = None) -> Any:
    name = node._owner._nested_key(key)
    if name not in node:
        _dict_set(node, name, adopt(default, node))
    return dict.__getitem__(node, name)


def _dict_clear(node: Any) -> None:
    for value in dict.values(node):
        _drop(value)
    dict.clear(node)


def _dict_del(node: Any, key: object) -> None:
    _loosened(dict.pop(node, key))


def _dict_popitem(node: Any) -> Any:
    key, value = dict.popitem(node)
    return key, _loosened(value)


for _name, _make in {
    "__delitem__": _dict_del,
    "pop": lambda node, *args: _loosened(dict.pop(node, *args)),
    "popitem": _dict_popitem,
    "clear": _dict_clear,
    "update": _dict_update,
    "setdefault": _dict_setdefault,
    "__ior__": _dict_ior,
}.items():
    setattr(TrackedDict, _name, _changer(_make, _name))


class WarmDict(TrackedDict):
    """A tracked dict whose containers inside are tracked too."""

    __slots__ = ()

    def __setitem__(self, key: str, value: Any) -> None:
        owner = self._owner
        if owner._careful or key.__class__ is not str:
            _set_in_dict_carefully(self, key, value)
            return
        if value.__class__ not in owner._scalars:
            value = adopt(value, self)
        if key in self and self[key].__class__ in NODES:
            loosen(self[key])
        _dict_set(self, key, value)
        _done(self)


class FlatDict(TrackedDict):
    """A warm dict without containers inside, so that setting a scalar has nothing to look after."""

    __slots__ = ()

    # The hottest of all changes: `d[key]["n"] += 1`. One test less for whatever the tick says as well.
    def __setitem__(self, key: str, value: Any) -> None:
        if key.__class__ is str and (value.__class__ is int or value.__class__ in self._owner._scalars):
            try:
                next(self._owner._ticks)
            except StopIteration:
                _set_in_dict_carefully(self, key, value)
            else:
                _dict_set(self, key, value)
                self._owner._dirty[self._key] = None
        else:
            _switch(self, WarmDict)
            self[key] = value


class ColdDict(TrackedDict):
    """A tracked dict that nobody has looked into yet."""

    __slots__ = ()

    def __setitem__(self, key: str, value: Any) -> None:
        _warm(self)
        self[key] = value

    def __getitem__(self, key: str) -> Any:
        value = _dict_get(self, key)
        if value.__class__ is dict or value.__class__ is list:
            _warm(self)
            return _dict_get(self, key)
        self.__class__ = TouchedDict
        return value


class TouchedDict(ColdDict):
    """A cold dict of which one scalar was read: often the only one, and not worth warming it for."""

    __slots__ = ()


for _name in ("get", "items", "values", "__iter__", "copy", "__or__", "__ror__", "__reversed__"):
    setattr(ColdDict, _name, _reader(dict, _name))
setattr(TouchedDict, "__getitem__", _reader(dict, "__getitem__"))  # noqa: B010


class TrackedList(list[Any]):
    """A list inside a structure: any change of it, at any depth, is kept by the structure."""

    __slots__ = ("_key", "_owner")
    _owner: Any
    _key: Any

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (list, (plain(self),))


def _list_set_item(node: Any, index: Any, value: Any) -> None:
    if isinstance(index, slice):
        removed = list.__getitem__(node, index)
        _list_set(node, index, [adopt(one, node) for one in value])
        for one in removed:
            _drop(one)
    else:
        new = adopt(value, node)
        _drop(list.__getitem__(node, index))
        _list_set(node, index, new)


def _list_del_item(node: Any, index: Any) -> None:
    removed = list.__getitem__(node, index)
    list.__delitem__(node, index)
    for one in removed if isinstance(index, slice) else (removed,):
        _drop(one)


def _list_extend(node: Any, values: Iterable[Any]) -> None:
    list.extend(node, [adopt(one, node) for one in values])


def _list_iadd(node: Any, values: Iterable[Any]) -> Any:
    _list_extend(node, values)
    return node


def _list_imul(node: Any, times: Any) -> Any:
    once = plain(node)
    if times < 1:
        _list_clear(node)
    for _ in range(times - 1):
        _list_extend(node, once)
    return node


def _list_clear(node: Any) -> None:
    for one in list.__iter__(node):
        _drop(one)
    list.clear(node)


def _list_remove(node: Any, value: Any) -> None:
    _list_del_item(node, list.index(node, value))


for _name, _make in {
    "__setitem__": _list_set_item,
    "__delitem__": _list_del_item,
    "append": lambda node, value: list.append(node, adopt(value, node)),
    "extend": _list_extend,
    "insert": lambda node, index, value: list.insert(node, index, adopt(value, node)),
    "pop": lambda node, *args: _loosened(list.pop(node, *args)),
    "remove": _list_remove,
    "clear": _list_clear,
    "sort": list.sort,
    "reverse": list.reverse,
    "__iadd__": _list_iadd,
    "__imul__": _list_imul,
}.items():
    setattr(TrackedList, _name, _changer(_make, _name))


class WarmList(TrackedList):
    """A tracked list whose containers inside are tracked too."""

    __slots__ = ()


class ColdList(TrackedList):
    """A tracked list that nobody has looked into yet."""

    __slots__ = ()


for _name in ("__getitem__", "__iter__", "__reversed__", "copy", "__add__", "__mul__", "__rmul__"):
    setattr(ColdList, _name, _reader(list, _name))

_COLD: frozenset[type] = frozenset((ColdDict, TouchedDict, ColdList))
_ALONE_IN_PAGE = 0
while maybe_held({0: ColdList()}):
    _ALONE_IN_PAGE += 1  # counted as ALONE is
NODES: frozenset[type] = frozenset((WarmDict, FlatDict, ColdDict, TouchedDict, WarmList, ColdList))
