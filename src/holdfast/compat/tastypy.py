"""The face of `tastypy` over a hold, for Python 3: POD, Tracker, SharedPOD, SharedTracker.

    from holdfast.compat.tastypy import POD
    my_pod = POD("path/to/my.pod")
    my_pod["foo"] = "bar"

The path is a hold with one structure in it, which `holdfast.open(path)` opens as well. All instances on one path
in a process are one set of data; how an instance syncs (`sync_at`, `hold`) and how often it tries (`max_tries`) is
its own: what counts is the instance that was used last. No timer runs, so `dirty` and `revert` mean what they say.
"""

import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, TypeVar

from holdfast.compat.tastypy_opening import (
    DuplicateKeyError,
    Manner,
    Pairs,
    PersistentOrderedDictException,
    PersistentOrderedDictIntegrityError,
    checked_key,
    checked_pairs,
    common_of,
    open_file,
    prepare_place,
    structure_in,
)
from holdfast.errors import ClosedError, ConflictError, InvalidError
from holdfast.structures.dictionary import Dict
from holdfast.structures.paths import Path
from holdfast.structures.tracker import DEFAULTS
from holdfast.structures.tracker import Tracker as Tasks

__all__ = [
    "DEFAULT_FILE_SIZE",
    "DEFAULT_PROGRESS_TRACKER_MAPPING",
    "DEFAULT_SYNC_AT",
    "ITERITEMS_CHUNK_SIZE",
    "ITERKEYS_CHUNK_SIZE",
    "POD",
    "DuplicateKeyError",
    "PersistentOrderedDict",
    "PersistentOrderedDictException",
    "PersistentOrderedDictIntegrityError",
    "ProgressTracker",
    "SharedPOD",
    "SharedPersistentOrderedDict",
    "SharedProgressTracker",
    "SharedTracker",
    "Tracker",
]

DEFAULT_FILE_SIZE = 1000
DEFAULT_SYNC_AT = 1000
DEFAULT_PROGRESS_TRACKER_MAPPING = tuple((name, DEFAULTS[name]) for name in ("_tries", "_done", "_aborted"))
ITERITEMS_CHUNK_SIZE = 1000  # these two mean nothing here; they are for programs that import them
ITERKEYS_CHUNK_SIZE = 1000

Keys = set[Any]  # inside the class, `set` is the property
Face = TypeVar("Face", bound="PersistentOrderedDict")


def _reopen(face: type[Face], path: str, options: dict[str, Any]) -> Face:
    return face(path, **options)


# -- PersistentOrderedDict ------------------------------------------------------------------------------------


class PersistentOrderedDict:
    """A dict on disk at `path`, in the order in which keys were first added; it is still there tomorrow.

    init       pairs or a mapping, as for an `update()` right after opening
    gzipped    these two mean nothing to a hold; they are accepted, and opening the same path with others
    file_size  raises ValueError
    sync_at    how many changed keys are synced by themselves
    clone      accepted: all instances on one path share their data, for one of its own would overwrite theirs

    Keys are strings, integers and nested tuples of them; ValueError for others. Values are what JSON holds, with
    nested keys as strings and tuples as lists; others raise ValueError at the assignment. Containers come back
    tracked: a change in them, at any depth and through any reference, is kept.

    What is not synced goes to disk when the program ends, by an uncaught exception, SIGTERM or SIGINT too.
    """

    __hash__ = None  # type: ignore[assignment]
    _kind = "dict"
    _shared = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        init: Pairs = (),
        gzipped: bool = False,
        file_size: int = DEFAULT_FILE_SIZE,
        sync_at: int = DEFAULT_SYNC_AT,
        clone: bool = True,
    ) -> None:
        self._open(path, Manner(sync_at), (bool(gzipped), file_size), clone, init)

    def _open(
        self, path: str | os.PathLike[str], manner: Manner, layout: tuple[bool, int], clone: bool, init: Pairs
    ) -> None:
        self._file = open_file(prepare_place(path), self._shared)
        try:
            self._manner = manner
            self._structure = structure_in(self._file, self._kind)
            self._common = common_of(self._structure)
            self._common.in_force = None  # opening a tracker again sets what it had
            if clone:
                self._agree_on(layout)
            self.update(init)
        except BaseException:
            self._file.close()
            raise

    def _agree_on(self, layout: tuple[bool, int]) -> None:
        agreed = self._common.layout = self._common.layout or layout
        for option, first, now in zip(("gzipped", "file_size"), agreed, layout, strict=True):
            if first != now:
                raise InvalidError(
                    f"{self.path!r} is already open in this process with {option}={first!r}, which contradicts "
                    f"{option}={now!r}: use the same"
                )

    @property
    def _dict(self) -> Any:
        """The structure, which from here on syncs as this instance says."""
        if self._common.in_force is not self._manner:
            self._take_over()
        return self._structure

    def _take_over(self) -> None:
        if self._file.closed:
            raise ClosedError(f"this {type(self).__name__} on {self.path!r} was closed: open another")
        structure, manner = self._structure, self._manner
        structure._limit = max(manner.sync_at, 1)
        structure._paused = manner.held
        structure._arm(1)  # the next change looks whether a sync is due
        if isinstance(structure, Tasks):
            structure.max_tries = manner.max_tries
        self._common.in_force = manner

    @property
    def path(self) -> str:
        """Where it lies: the real path of the hold."""
        return self._file.path

    @property
    def sync_at(self) -> int:
        """At how many changed keys this instance syncs by itself."""
        return self._manner.sync_at

    @sync_at.setter
    def sync_at(self, changes: int) -> None:
        self._manner.sync_at = changes
        self._take_over()

    def close(self) -> None:
        """Sync, and let go of the file. Other instances on the path stay open; closing twice is harmless."""
        self._manner = Manner(self.sync_at)  # never in force again, so the next use notices
        self._file.close()

    # -- single keys ------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        return self._dict[checked_key(key)]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._dict[checked_key(key)] = value

    def __delitem__(self, key: Any) -> None:
        del self._dict[checked_key(key)]

    def __contains__(self, key: object) -> bool:
        return checked_key(key) in self._dict

    def get(self, key: Any, default: Any = None) -> Any:
        """The value of a key, or `default`."""
        return self._dict.get(checked_key(key), default)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """The value of a key, which is `default` from now on if it had none."""
        return self._dict.setdefault(checked_key(key), default)

    def pop(self, key: Any, *default: Any) -> Any:
        """Remove a key and return its value, in builtin containers."""
        return self._dict.pop(checked_key(key), *default)

    def popitem(self, last: bool = True) -> tuple[Any, Any]:
        """Remove and return the newest (or oldest) pair."""
        return self._dict.popitem(last)  # type: ignore[no-any-return]

    def move_to_end(self, key: Any) -> None:
        """Make a key the last one."""
        self._dict.move_to_end(checked_key(key))

    # -- all keys ---------------------------------------------------------------------------------------------

    def update(self, *mappings: Pairs, **keywords: Any) -> None:
        """Set what mappings, iterables of pairs, and keywords say; those further right win."""
        Dict.update(self._dict, checked_pairs(mappings, keywords))

    def clear(self) -> None:
        """Remove every key."""
        self._dict.clear()

    def __len__(self) -> int:
        return len(self._dict)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._dict)

    def __reversed__(self) -> Iterator[Any]:
        return iter(self.keys()[::-1])

    def iterkeys(self) -> Iterator[Any]:
        """The keys, and those that are added meanwhile."""
        return iter(self._dict)

    def itervalues(self) -> Iterator[Any]:
        """The values, and those that are added meanwhile."""
        return iter(self._dict.values())

    def iteritems(self) -> Iterator[tuple[Any, Any]]:
        """Keys with their values, and those that are added meanwhile."""
        return iter(self._dict.items())

    def keys(self) -> list[Any]:
        """All keys, as a list."""
        return list(self.iterkeys())

    def values(self) -> list[Any]:
        """All values, as a list."""
        return list(self.itervalues())

    def items(self) -> list[tuple[Any, Any]]:
        """All pairs, as a list."""
        return list(self.iteritems())

    def copy(self) -> dict[Any, Any]:
        """A plain dict with copies of all values."""
        return self._dict.copy()  # type: ignore[no-any-return]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PersistentOrderedDict):
            other = other._dict
        return bool(self._dict == other) if isinstance(other, Mapping) else NotImplemented

    def __or__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        return self.copy() | dict(other)

    def __ror__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        return dict(other) | self.copy()

    def __ior__(self: Face, other: Pairs) -> Face:
        self.update(other)
        return self

    # -- syncing ----------------------------------------------------------------------------------------------

    def dirty(self) -> Keys:
        """The keys whose newest value is not on disk yet; a copy."""
        return self._dict.dirty()  # type: ignore[no-any-return]

    def mark_dirty(self, key: Any) -> None:
        """Have this key written with the next sync."""
        self._dict.mark_dirty(checked_key(key))

    def sync(self) -> None:
        """Bring every change to disk, while automatic syncs are held too."""
        self._dict.sync()

    def sync_key(self, key: Any) -> None:
        """Bring this key to disk, and whatever else has changed with it."""
        self._dict.sync_key(checked_key(key))

    def hold(self) -> None:
        """No sync by itself for what this instance changes, until `unhold()`. The program's end syncs all the same."""
        self._manner.held = True
        self._take_over()

    def unhold(self) -> None:
        """Sync by itself again: at once, if `sync_at` was reached meanwhile."""
        self._manner.held = False
        self._take_over()
        self._structure._due()

    def revert(self) -> None:
        """Drop every change that is not on disk, in references that are held too."""
        self._dict.revert()

    @property
    def set(self) -> Path:
        """Where changes are atomic: `pod.set["a"]["n"] += 1`, `pod.set["log"].append(x)`, `pod.set["a"][:] = [4]`."""
        return _Root(self)

    # -- the rest ---------------------------------------------------------------------------------------------

    def __reduce__(self) -> Any:
        self._dict.sync()
        return _reopen, (type(self), self.path, self._options())

    def _options(self) -> dict[str, Any]:
        """What another process opens it with."""
        options: dict[str, Any] = {"sync_at": self.sync_at}
        if self._common.layout is not None:
            options["gzipped"], options["file_size"] = self._common.layout
        return options

    def __repr__(self) -> str:
        name = f"{type(self).__name__}({self.path!r}"
        if self._file.closed:
            return f"<{name}), closed>"
        shown = [f"{key!r}: {value!r}" for (key, value), _ in zip(self.iteritems(), range(5), strict=False)]
        more = ", ..." if len(self) > len(shown) else ""
        return f"<{name}): {{{', '.join(shown)}{more}}}>"

    def _repr_html_(self) -> str:
        return self._dict._repr_html_()  # type: ignore[no-any-return]


MutableMapping.register(PersistentOrderedDict)


# -- .set -----------------------------------------------------------------------------------------------------


class _Place(Path):
    """A path into a POD, on which any operator runs, as one step with what it changes."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> "Path":
        return _Place(self._dict, (*self._steps, key))


def _operator(run: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: _Place, *operands: Any) -> Any:
        return self._at(lambda target: run(target, *operands))

    return method


_ARITHMETIC = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "neg", "pos", "abs")
_BITS = ("lshift", "rshift", "and", "or", "xor", "invert")
_COMPARISONS = ("lt", "le", "eq", "ne", "ge", "gt")
for _name in (*_ARITHMETIC, *_BITS, *_COMPARISONS):
    setattr(_Place, f"__{_name}__", _operator(getattr(operator, f"__{_name}__")))


class _Root(_Place):
    """`pod.set` itself: its keys are the POD's, and so are its methods."""

    __slots__ = ("_pod",)

    def __init__(self, pod: PersistentOrderedDict) -> None:
        super().__init__(pod._dict, ())
        self._pod = pod

    def __getitem__(self, key: Any) -> "Path":
        return _Place(self._dict, (checked_key(key),))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(checked_key(key), value)

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(checked_key(key))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return getattr(self._pod, name)  # type: ignore[no-any-return]


# -- ProgressTracker ------------------------------------------------------------------------------------------


class ProgressTracker(PersistentOrderedDict):
    """A POD of tasks: each value is a dict with `_done`, `_tries` and `_aborted` beside whatever else belongs to it.

    max_tries   how often a task is tried; 0 is no limit

    The other arguments are those of PersistentOrderedDict; `init` merges into the tasks that are there.
    """

    _kind = "tracker"

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_tries: int = 0,
        init: Pairs = (),
        gzipped: bool = False,
        file_size: int = DEFAULT_FILE_SIZE,
        sync_at: int = DEFAULT_SYNC_AT,
        clone: bool = True,
    ) -> None:
        self._open(path, Manner(sync_at, max_tries=max_tries), (bool(gzipped), file_size), clone, init)

    @property
    def max_tries(self) -> int:
        """How often this instance lets a task be tried; 0 is no limit."""
        return self._manner.max_tries

    @max_tries.setter
    def max_tries(self, tries: int) -> None:
        self._manner.max_tries = tries
        self._take_over()

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "max_tries": self.max_tries}

    # -- adding -----------------------------------------------------------------------------------------------

    def add(self, key: Any) -> None:
        """Add a task that is not done and has no tries. Raises DuplicateKeyError if it is there already."""
        self._add_new(lambda: self._dict.add(checked_key(key)))

    def add_if_absent(self, key: Any) -> bool:
        """Add a task unless it is there; whether it was added."""
        return bool(self._dict.add_if_absent(checked_key(key)))

    def add_many(self, keys_iterable: Iterable[Any]) -> None:
        """Add tasks: all of them or, with DuplicateKeyError, none."""
        self._add_new(lambda: self._dict.add_many(list(map(checked_key, keys_iterable))))

    def add_many_if_absent(self, keys_iterable: Iterable[Any]) -> int:
        """Add those tasks that are not there; how many were added."""
        return int(self._dict.add_many_if_absent(list(map(checked_key, keys_iterable))))

    @staticmethod
    def _add_new(add: Callable[[], None]) -> None:
        try:
            add()
        except ConflictError as error:
            raise DuplicateKeyError(str(error)) from None

    def update(self, *mappings: Pairs, **keywords: Any) -> None:
        """Merge dicts into the tasks that are there, and add those that are missing."""
        self._dict.update(_tasks(checked_pairs(mappings, keywords)))

    # -- one task ---------------------------------------------------------------------------------------------

    def mark_done(self, key: Any) -> None:
        """Say that the task is done."""
        self._dict.mark_done(checked_key(key))

    def mark_not_done(self, key: Any) -> None:
        """Say that the task is still to do."""
        self._dict.mark_not_done(checked_key(key))

    def done(self, key: Any) -> bool:
        """Whether the task is there and done."""
        return bool(self._dict.done(checked_key(key)))

    def tries(self, key: Any) -> int:
        """How often the task was tried."""
        return int(self._dict.tries(checked_key(key)))

    def increment_tries(self, key: Any) -> None:
        """Count a try."""
        self._dict.increment_tries(checked_key(key))

    def decrement_tries(self, key: Any) -> None:
        """Take a try back."""
        self._dict.decrement_tries(checked_key(key))

    def reset_tries(self, key: Any) -> None:
        """Forget all tries."""
        self._dict.reset_tries(checked_key(key))

    def abort(self, key: Any) -> None:
        """Give the task up."""
        self._dict.abort(checked_key(key))

    def unabort(self, key: Any) -> None:
        """Take up the task again."""
        self._dict.unabort(checked_key(key))

    def aborted(self, key: Any) -> bool:
        """Whether the task was given up."""
        return bool(self._dict.aborted(checked_key(key)))

    # -- gates ------------------------------------------------------------------------------------------------

    def should_do(self, key: Any, allow_aborted: bool = False) -> bool:
        """Whether the task is not done, has tries left, and was not given up. Raises KeyError if there is none."""
        return self._is_open(self[key], allow_aborted)

    def should_try(self, key: Any, allow_aborted: bool = False) -> bool:
        """As `should_do`, and if so, counts a try."""
        return self.should_do(key, allow_aborted) and self._count_try(checked_key(key), allow_aborted)

    def should_do_add(self, key: Any, allow_aborted: bool = False) -> bool:
        """As `should_do`; a task that is not there is added first."""
        self.add_if_absent(key)
        return self.should_do(key, allow_aborted)

    def should_try_add(self, key: Any, allow_aborted: bool = False) -> bool:
        """As `should_try`; a task that is not there is added first."""
        self.add_if_absent(key)
        return self.should_try(key, allow_aborted)

    def _is_open(self, task: Mapping[str, Any], allow_aborted: bool) -> bool:
        return bool(self._dict._may_try(task, allow_aborted))

    def _count_try(self, key: Any, allow_aborted: bool) -> bool:
        return bool(
            self._dict._count_try(key, allow_aborted)
        )  # looks again: another process may have been faster

    # -- walking ----------------------------------------------------------------------------------------------

    def todo_items(self, allow_aborted: bool = False) -> Iterator[tuple[Any, Any]]:
        """Tasks for which `should_do` is true when their turn comes, with those that are added meanwhile."""
        return ((key, task) for key, task in self.iteritems() if self._is_open(task, allow_aborted))

    def todo_keys(self, allow_aborted: bool = False) -> Iterator[Any]:
        """The keys of `todo_items`."""
        return (key for key, _ in self.todo_items(allow_aborted))

    def todo_values(self, allow_aborted: bool = False) -> Iterator[Any]:
        """The values of `todo_items`."""
        return (task for _, task in self.todo_items(allow_aborted))

    def try_items(self, allow_aborted: bool = False) -> Iterator[tuple[Any, Any]]:
        """As `todo_items`, counting a try for each task that is given."""
        for key, _ in self.todo_items(allow_aborted):
            if self._count_try(key, allow_aborted):
                yield key, self[key]

    def try_keys(self, allow_aborted: bool = False) -> Iterator[Any]:
        """The keys of `try_items`."""
        return (key for key, _ in self.try_items(allow_aborted))

    def try_values(self, allow_aborted: bool = False) -> Iterator[Any]:
        """The values of `try_items`."""
        return (task for _, task in self.try_items(allow_aborted))

    def aborted_items(self) -> Iterator[tuple[Any, Any]]:
        """Tasks that were given up."""
        return self._dict.aborted_items()  # type: ignore[no-any-return]

    def aborted_keys(self) -> Iterator[Any]:
        """The keys of `aborted_items`."""
        return self._dict.aborted_keys()  # type: ignore[no-any-return]

    def aborted_values(self) -> Iterator[Any]:
        """The values of `aborted_items`."""
        return self._dict.aborted_values()  # type: ignore[no-any-return]

    # -- progress ---------------------------------------------------------------------------------------------

    def num_done(self) -> int:
        """How many tasks are done."""
        return int(self._dict.num_done())

    def num_tried(self) -> int:
        """How many tasks were tried at least once."""
        return int(self._dict.num_tried())

    def num_aborted(self) -> int:
        """How many tasks were given up."""
        return int(self._dict.num_aborted())

    def fraction_done(self) -> float:
        """Between 0 and 1; 0 if there are no tasks."""
        return float(self._dict.fraction_done())

    def fraction_tried(self) -> float:
        """Between 0 and 1; 0 if there are no tasks."""
        return float(self._dict.fraction_tried())

    def fraction_aborted(self) -> float:
        """Between 0 and 1; 0 if there are no tasks."""
        return float(self._dict.fraction_aborted())

    @staticmethod
    def percent(fraction: float, decimals: int = 2) -> str:
        """A fraction in words: '34.70 %'."""
        return Tasks.percent(fraction, decimals)

    def percent_done(self, decimals: int = 2) -> str:
        """'34.70 %' of all tasks are done."""
        return self.percent(self.fraction_done(), decimals)

    def percent_not_done(self, decimals: int = 2) -> str:
        """'65.30 %' of all tasks are not done."""
        return self.percent(1 - self.fraction_done(), decimals)

    def percent_tried(self, decimals: int = 2) -> str:
        """'34.70 %' of all tasks were tried."""
        return self.percent(self.fraction_tried(), decimals)

    def percent_not_tried(self, decimals: int = 2) -> str:
        """'65.30 %' of all tasks were never tried."""
        return self.percent(1 - self.fraction_tried(), decimals)

    def percent_aborted(self, decimals: int = 2) -> str:
        """'34.70 %' of all tasks were given up."""
        return self.percent(self.fraction_aborted(), decimals)

    def percent_not_aborted(self, decimals: int = 2) -> str:
        """'65.30 %' of all tasks were not given up."""
        return self.percent(1 - self.fraction_aborted(), decimals)


def _tasks(pairs: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    for key, fields in pairs:
        if not isinstance(fields, Mapping):
            raise InvalidError(f"[{key!r}]: a task is a dict of its fields, not a {type(fields).__name__}")
        yield key, fields


# -- shared ---------------------------------------------------------------------------------------------------


class SharedPersistentOrderedDict(PersistentOrderedDict):
    """A POD that many processes have at once: each change is on disk, and seen by all, when the call returns.

    Give it to other processes in any way: as an argument, inherited by fork, over a Pipe, Queue or Pool; or open
    the path in each. No server runs. `shared_pod[key] = value` is atomic; what depends on the old value (`+=`, a
    change inside a value) is atomic through `.set`, or inside `locked()`.

    Nothing waits to be synced: `dirty()` is empty, `revert()` has nothing to drop, and `hold()` changes nothing.
    """

    _shared = True

    def lock(self) -> None:
        """Keep all others from changing it until `unlock()`; they wait. Counted: unlock as often."""
        self._dict.lock()

    def unlock(self) -> None:
        """Let others change it again."""
        self._dict.unlock()

    @contextmanager
    def locked(self: Face) -> Iterator[Face]:
        """`with pod.locked():` others wait with their changes until the block ends."""
        with self._dict.locked():
            yield self


class SharedProgressTracker(ProgressTracker, SharedPersistentOrderedDict):
    """A Tracker that many processes have at once; see SharedPersistentOrderedDict.

    Several that walk `try_keys()` at once each try what is not done yet: with `max_tries=1` a task is tried by one.
    """


POD = PersistentOrderedDict
SharedPOD = SharedPersistentOrderedDict
Tracker = ProgressTracker
SharedTracker = SharedProgressTracker
