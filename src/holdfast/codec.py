"""Values to and from what is stored, and keys to and from what the database holds.

A value is JSON text: readable in any SQLite tool, and exact. orjson writes it, because it refuses what JSON
can't hold instead of bending it; msgspec reads it, because it keeps integers exact at any size. What neither
speaks (NaN and infinities, integers past 64 bits, lone surrogates) goes through the standard library.
A structure may name another serializer; its values are then opaque BLOBs.
"""

import io
import json
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from holdfast.errors import CorruptError, InvalidError

Key = str | int | float | tuple[Any, ...] | None
Stored = str | bytes

SCALARS: frozenset[type] = frozenset((int, str, float, bool, type(None)))
SCALARS_OF_STRICT_JSON: frozenset[type] = SCALARS - {
    float
}  # of a float it is to be seen whether it is finite
_TEXT: frozenset[type] = frozenset((str,))
INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1
MAX_DEPTH = 500

# Passed through, so that orjson refuses them: they would come back as something else.
PASSED_THROUGH = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
_orjson_dumps = orjson.dumps
read_json = msgspec.json.Decoder().decode  # raises ValueError for what only `decode` can read


def encode(value: object) -> str:
    """The JSON text of `value`. Tuples become lists, enum members and UUIDs their JSON value.

    Raises InvalidError, naming the path inside the value, for what JSON can't hold.
    """
    try:
        text = _orjson_dumps(value, None, PASSED_THROUGH).decode()
    except TypeError:
        return _encode_carefully(value)
    # orjson writes NaN and infinities as null, so each null is a reason to look.
    if "null" in text and not _is_finite(value):
        return _encode_carefully(value)
    return text


def encode_finite(value: object) -> str:
    """As `encode`, but NaN and infinities are refused: strict JSON (RFC 8259)."""
    text = encode(value)
    if not _is_finite(value):
        path = _find_path(value, lambda v: isinstance(v, float) and not math.isfinite(v))
        raise InvalidError(
            f"{path or 'the value'} is NaN or infinite, which strict JSON can't hold: "
            "store None instead, or open the structure with strict_json=False"
        )
    return text


def decode(text: Stored) -> Any:
    """The value of JSON text that `encode` wrote."""
    try:
        return read_json(text)
    except (msgspec.DecodeError, RecursionError):
        pass  # NaN, infinities, lone surrogates and great depth are the standard library's
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptError(
            f"a stored value is not JSON ({error}): run `holdfast check` on the file"
        ) from error


def _is_finite(value: object) -> bool:
    kind = value.__class__
    if kind is float:
        return math.isfinite(value)  # type: ignore[arg-type]
    if isinstance(value, dict):
        return all(map(_is_finite, dict.values(value)))  # the stored items: no tracked value is thawed
    if isinstance(value, (list, tuple)):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _encode_carefully(value: object) -> str:
    try:
        return json.dumps(_plain(value, "", 0), separators=(",", ":"), ensure_ascii=_has_surrogate(value))
    except RecursionError as error:
        raise InvalidError(
            f"the value is nested more than {MAX_DEPTH} levels deep or contains itself: flatten it"
        ) from error
    except ValueError as error:
        if isinstance(error, InvalidError):
            raise
        raise InvalidError(f"the value has an integer of too many digits ({error}): store hex(it)") from error


def _has_surrogate(value: object) -> bool:
    def wanted(part: object) -> bool:
        return (
            any(map(wanted, part))
            if isinstance(part, dict)
            else isinstance(part, str) and _is_surrogate(part)
        )

    return _find_path(value, wanted) is not None


def _is_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _find_path(value: object, wanted: Callable[[object], bool], path: str = "") -> str | None:
    if wanted(value):
        return path
    if isinstance(value, dict):
        items: Any = ((f"[{k!r}]", v) for k, v in dict.items(value))
        items = ((p, v) for p, v in items)
    elif isinstance(value, (list, tuple)):
        items = ((f"[{i}]", v) for i, v in enumerate(value))
    else:
        return None
    for step, inner in items:
        found = _find_path(inner, wanted, path + step)
        if found is not None:
            return found
    return None


def _plain(value: Any, path: str, depth: int) -> Any:
    """The value in builtin types alone, or InvalidError with the path of what can't be held."""
    if depth > MAX_DEPTH:
        raise RecursionError
    if value is None or isinstance(value, (bool, int, float, str)):
        return _plain_scalar(value)
    if isinstance(value, dict):
        return {_plain_key(k, path): _plain(v, f"{path}[{k!r}]", depth + 1) for k, v in dict.items(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]
    try:
        return read_json(_orjson_dumps(value, None, PASSED_THROUGH))  # enum members, UUIDs
    except (TypeError, msgspec.DecodeError):
        raise InvalidError(_refusal(value, path)) from None


def _plain_scalar(value: Any) -> Any:
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value.value) if hasattr(value, "value") and type(value) is not kind else kind(value)
    return value


def _plain_key(key: object, path: str) -> str:
    if isinstance(key, str):
        return str(key)
    raise InvalidError(
        f"the key {key!r} inside {path or 'the value'} is not a string, and JSON has only string keys: "
        f"use {str(key)!r}, or a structure with serializer='pickle' or 'msgpack'"
    )


_HINTS: Mapping[str, str] = {
    "datetime": "store .isoformat()",
    "date": "store .isoformat()",
    "time": "store .isoformat()",
    "bytes": "store .hex(), or use serializer='bytes'",
    "bytearray": "store .hex(), or use serializer='bytes'",
    "set": "store sorted(it)",
    "frozenset": "store sorted(it)",
    "Decimal": "store str(it)",
}


def _refusal(value: object, path: str) -> str:
    kind = type(value).__name__
    hint = _HINTS.get(kind, "store it as dicts, lists, strings, numbers, booleans and None")
    where = f"the part {path} of the value" if path else "the value"
    return f"{where} is of type {kind}, which JSON can't hold: {hint}, or use a structure with serializer='pickle'"


# -- keys -----------------------------------------------------------------------------------------------------


def plain_key(key: object) -> Key:
    """The key as it is stored and given back; keys that are equal in a dict are one key here too.

    True and 1.0 are the key 1. Raises InvalidError for what can't be a key.
    """
    if isinstance(key, str):
        return str(key)
    if key is None or key.__class__ is int:
        return key
    if isinstance(key, float):
        if math.isnan(key):
            raise InvalidError(
                "nan can't be a key: it is not equal to itself, so it could never be found again"
            )
        return int(key) if key.is_integer() else float(key)
    if isinstance(key, int):
        return int(key)
    if isinstance(key, tuple):
        return tuple(plain_key(part) for part in key)
    raise InvalidError(
        f"{key!r} ({type(key).__name__}) can't be a key: keys are str, int, float, bool, None or tuples of them"
    )


def key_to_db(key: Key) -> str | int | bytes:
    """A key as SQLite holds it: text and 64-bit integers as themselves, the rest as a JSON blob."""
    if isinstance(key, str):
        if key.isascii() or not _is_surrogate(key):
            return key
    else:
        if key.__class__ is not int:
            key = plain_key(key)
        if key.__class__ is int and INT64_MIN <= key <= INT64_MAX:
            return key
    return json.dumps(key, separators=(",", ":")).encode()


def keys_to_db(keys: Sequence[Any]) -> Sequence[Any]:
    """As `key_to_db` for each; nearly free where all are ASCII text."""
    if _TEXT.issuperset(map(type, keys)) and "".join(keys).isascii():
        return keys
    return [key_to_db(key) for key in keys]


def key_from_db(stored: str | int | bytes) -> Key:
    """The key that `key_to_db` stored."""
    if isinstance(stored, bytes):
        return _tuples(json.loads(stored))
    return stored


def _tuples(value: Any) -> Key:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


# -- serializers ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Serializer:
    """How the values of one structure are stored.

    `dumps` gives text or bytes, `loads` takes them back. `tracked`: the values are plain JSON containers, so
    they can be handed out as tracked ones; else a value is opaque, and a change inside it must be assigned
    again or marked with `mark_dirty`. `unsafe`: loading can run code, so it is never done without being asked.
    """

    name: str
    dumps: Callable[[Any], Stored]
    loads: Callable[[Any], Any]
    tracked: bool = False
    unsafe: bool = False


def _expect(kind: type, name: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, kind):
            raise InvalidError(
                f"the value is of type {type(value).__name__}, but serializer={name!r} holds only {kind.__name__}"
            )
        return kind(value)

    return check


def _pickle_dumps(value: object) -> bytes:
    try:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise InvalidError(f"the value can't be pickled ({error}): store what it is made of") from error


def _msgpack_dumps(value: object) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidError(f"the value can't be held by serializer='msgpack' ({error})") from error


def _msgpack_loads(stored: bytes) -> Any:
    return msgspec.msgpack.decode(stored, strict=False)


def _optional(module: str, extra: str) -> Any:
    try:
        return __import__(module)
    except ImportError as error:
        raise InvalidError(
            f"this serializer needs the package {module!r}, which is not installed: pip install {extra}"
        ) from error


def _json_zstd_dumps(value: object) -> bytes:
    compress = _optional("zstandard", "zstandard").ZstdCompressor(level=3).compress
    return bytes(compress(encode(value).encode()))


def _json_zstd_loads(stored: bytes) -> Any:
    return decode(_optional("zstandard", "zstandard").ZstdDecompressor().decompress(stored))


def _numpy_dumps(value: object) -> bytes:
    buffer = io.BytesIO()
    _optional("numpy", "numpy").save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def _numpy_loads(stored: bytes) -> Any:
    return _optional("numpy", "numpy").load(io.BytesIO(stored), allow_pickle=False)


JSON = Serializer("json", encode, decode, tracked=True)
STRICT_JSON = Serializer("json", encode_finite, decode, tracked=True)
SERIALIZERS: dict[str, Serializer] = {
    one.name: one
    for one in (
        JSON,
        Serializer("str", _expect(str, "str"), _expect(str, "str")),
        Serializer("bytes", _expect(bytes, "bytes"), bytes),
        Serializer("pickle", _pickle_dumps, pickle.loads, unsafe=True),
        Serializer("msgpack", _msgpack_dumps, _msgpack_loads),
        Serializer("json_zstd", _json_zstd_dumps, _json_zstd_loads),
        Serializer("numpy", _numpy_dumps, _numpy_loads),
    )
}


def serializer(name: str, strict_json: bool = False) -> Serializer:
    """The serializer of that name. Raises InvalidError with the names there are."""
    found = SERIALIZERS.get(name)
    if found is None:
        raise InvalidError(f"there is no serializer {name!r}; there are: {', '.join(sorted(SERIALIZERS))}")
    if strict_json and found is not JSON:
        raise InvalidError(
            f"strict_json=True contradicts serializer={name!r}: it is for serializer='json' alone"
        )
    return STRICT_JSON if strict_json else found
