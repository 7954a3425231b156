"""What stands under the faces of `tastypy`: errors, keys, the JSON of nested keys, and opening a path."""

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from holdfast.codec import encode
from holdfast.errors import ConflictError, CorruptError, HoldfastError, InvalidError
from holdfast.hold import Hold
from holdfast.hold import open as open_hold
from holdfast.structures.dictionary import Dict

if TYPE_CHECKING:
    from holdfast.journal.journal import Journal

NAMES = {"dict": "pod", "tracker": "tracker"}  # what a structure that is made here is called, by its kind
SHARED_WAIT_SECONDS = 3600.0  # lock() keeps others out for as long as it pleases
OLD_FILE = re.compile(r"(0|[1-9]\d*)\.json(\.gz)?")

Pairs = Mapping[Any, Any] | Iterable[tuple[Any, Any]]


class PersistentOrderedDictException(HoldfastError):
    """The root of what only this face raises."""


class DuplicateKeyError(PersistentOrderedDictException, ConflictError):
    """The task is there already: use `add_if_absent` to let it be."""


class PersistentOrderedDictIntegrityError(PersistentOrderedDictException, CorruptError):
    """What lies at the path is damaged or something else; it was left as it is."""


# -- keys and values ------------------------------------------------------------------------------------------


def checked_key(key: Any) -> Any:
    """The key, if it is a str, an int or a (nested) tuple of them; else InvalidError, which is a ValueError."""
    if isinstance(key, str | int):
        return key
    if isinstance(key, tuple):
        return tuple(map(checked_key, key))
    raise InvalidError(
        f"{key!r} ({type(key).__name__}) can't be a key: keys are strings, integers and (nested) tuples of them"
    )


_CONSTANTS = {True: "true", False: "false", None: "null"}


def json_key(key: object) -> str:
    """The string that JSON makes of a key inside a value: 1 becomes "1", None "null"."""
    if isinstance(key, str):
        return str(key)
    if key is None or isinstance(key, bool):
        return _CONSTANTS[key]
    if isinstance(key, int | float):
        return encode(key)
    raise InvalidError(
        f"the nested key {key!r} ({type(key).__name__}) can't be written as JSON: use a string"
    )


def _with_json_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {json_key(key): _with_json_keys(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_with_json_keys(inner) for inner in value]
    return value


def encode_with_json_keys(value: object) -> str:
    """The JSON text of a value, nested keys that are numbers as strings. Raises InvalidError."""
    try:
        return encode(value)
    except InvalidError:
        try:
            coerced = _with_json_keys(value)
        except RecursionError:
            raise InvalidError("the value is nested too deep, or contains itself: flatten it") from None
    return encode(coerced)


def pairs_of(mapping: Any) -> Iterable[tuple[Any, Any]]:
    if hasattr(mapping, "keys"):
        return ((key, mapping[key]) for key in mapping.keys())  # noqa: SIM118 - not all of them iterate over keys
    if hasattr(mapping, "iteritems"):
        return mapping.iteritems()  # type: ignore[no-any-return]
    return mapping  # type: ignore[no-any-return]


def checked_pairs(mappings: tuple[Pairs, ...], keywords: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    for mapping in (*mappings, keywords):
        for key, value in pairs_of(mapping):
            yield checked_key(key), value


# -- what lies at a path --------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Manner:
    """How one instance goes about syncing and trying."""

    sync_at: int
    held: bool = False
    max_tries: int = 0


@dataclass(slots=True, eq=False)
class Common:
    """What all instances on one path in this process have in common."""

    layout: tuple[bool, int] | None = None  # gzipped and file_size of the first instance
    in_force: Manner | None = None  # of the instance that was used last


_common_by_journal: "WeakKeyDictionary[Journal, Common]" = WeakKeyDictionary()


def prepare_place(path: str | os.PathLike[str]) -> str:
    """The real path; the directory around it is made. Raises InvalidError if a directory lies there."""
    full = os.path.realpath(os.path.expanduser(os.fspath(path)))
    if os.path.isdir(full):
        _refuse_directory(full)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    return full


def _refuse_directory(full: str) -> None:
    names = os.listdir(full)
    if any(OLD_FILE.fullmatch(name) for name in names):
        raise InvalidError(
            f"{full!r} is a directory of the original tastypy, and is left as it is: bring its data into a hold with "
            f"`holdfast import tastypy {shlex.quote(full)}`, and open that"
        )
    if not names:
        raise InvalidError(
            f"{full!r} is an empty directory, and a hold is a file: remove it, or use another path"
        )
    raise InvalidError(f"{full!r} is a directory, and a hold is a file: use another path")


def open_file(full: str, shared: bool) -> Hold:
    try:
        return open_hold(
            full,
            shared=shared,
            sync_seconds=None,
            wait_seconds=SHARED_WAIT_SECONDS if shared else 30.0,
        )
    except CorruptError as error:
        raise PersistentOrderedDictIntegrityError(str(error)) from error


def structure_in(file: Hold, kind: str) -> Dict:
    """The one structure of the hold, made if it has none. A tracker may be opened as a dict too."""
    kinds = file.structures()
    name = next((name for name in (NAMES[kind], *NAMES.values()) if name in kinds), None)
    if name is None and len(kinds) > 1:
        raise InvalidError(
            f"{file.path!r} holds several structures ({', '.join(map(repr, kinds))}), and none of them is called "
            f"'pod' or 'tracker': open it with holdfast.open()"
        )
    if name is None:
        name = next(iter(kinds), NAMES[kind])
    found = kinds.get(name, kind)
    if found not in NAMES or (kind, found) == ("tracker", "dict"):
        face = "POD" if found == "dict" else f"holdfast.open() and hold.{found}({name!r})"
        raise InvalidError(f"{name!r} in {file.path!r} is a {found}, not a {kind}: open it with {face}")
    structure = file.tracker(name) if found == "tracker" else file.dict(name)
    structure._nested_key = json_key
    if structure._serializer.name == "json":
        structure._dumps = encode_with_json_keys
    return structure


def common_of(structure: Dict) -> Common:
    """What the instances on this structure's path have in common."""
    return _common_by_journal.setdefault(structure._journal, Common())
