"""A dump: JSON lines that say all there is in a hold. No file and no terminal is known here.

A structure is announced by a line of its own, its entries follow in order:

    {"structure":"pages","kind":"dict","options":{"merge":"fields"}}
    {"key":"/","value":{"title":"Home"}}
    {"key":[3,4],"value":7,"marks":["local"]}
    {"key":"model","base64":"gASVAg…"}

A key that is a list stands for a tuple; `base64` is a value that its serializer wrote, as it is stored; `NaN` and
`Infinity` are written as Python and JSON5 do.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from holdfast.cli.keys import from_json, key_of
from holdfast.codec import Key, Serializer, Stored, encode
from holdfast.errors import InvalidError

MARKS = ("local", "ephemeral")


class Header(NamedTuple):
    """The entries that follow are of this structure."""

    line: int
    name: str
    kind: str
    options: dict[str, Any]


class Entry(NamedTuple):
    """One entry; `stored` instead of `value` where a serializer other than JSON wrote it."""

    line: int
    key: Key
    value: Any
    stored: bytes | None
    marks: tuple[str, ...]


def header(name: str, kind: str, options: dict[str, Any]) -> str:
    """The line that announces a structure."""
    return encode({"structure": name, "kind": kind} | ({"options": options} if options else {}))


def entry(key: Key, stored: Stored, serializer: Serializer, marks: Iterable[str] = ()) -> str:
    """The line of an entry; JSON values pass as they are stored."""
    if isinstance(stored, bytes):
        value = f'"base64":"{base64.b64encode(stored).decode()}"'
    else:
        value = f'"value":{stored if serializer.tracked else encode(stored)}'
    marked = f',"marks":{encode(list(marks))}' if marks else ""
    return f'{{"key":{encode(key)},{value}{marked}}}'


def parse(texts: Iterable[str], first_line: int = 1) -> Iterator[Header | Entry]:
    """What the lines of a dump say; empty ones are passed over. InvalidError names the line."""
    for number, text in enumerate(texts, first_line):
        if text.strip():
            yield _parse(number, text)


def _parse(number: int, text: str) -> Header | Entry:
    found = from_json(text, f"line {number}")
    if isinstance(found, dict):
        if "key" in found and found.keys() <= {"key", "value", "base64", "marks"}:
            return _parse_entry(number, found)
        if isinstance(found.get("structure"), str) and found.keys() <= {"structure", "kind", "options"}:
            return _parse_header(number, found)
    raise InvalidError(
        f'line {number} is no line of a dump: it must have "key" and "value" (or "base64"), or "structure"'
    )


def _parse_header(number: int, found: dict[str, Any]) -> Header:
    options = found.get("options", {})
    if not isinstance(options, dict):
        raise InvalidError(f'line {number}: "options" must be an object')
    return Header(number, found["structure"], str(found.get("kind", "dict")), options)


def _parse_entry(number: int, found: dict[str, Any]) -> Entry:
    if ("value" in found) == ("base64" in found):
        raise InvalidError(f'line {number} must have either "value" or "base64"')
    try:
        key = key_of(found["key"])
        stored = base64.b64decode(found["base64"], validate=True) if "base64" in found else None
    except InvalidError as error:
        raise InvalidError(f"line {number}: {error}") from None
    except (binascii.Error, TypeError, ValueError) as error:
        raise InvalidError(f'line {number}: its "base64" can\'t be decoded ({error})') from None
    marks = found.get("marks", [])
    if not isinstance(marks, list) or not set(map(str, marks)) <= set(MARKS):
        raise InvalidError(f'line {number}: "marks" may be {" and ".join(MARKS)}')
    return Entry(number, key, found.get("value"), stored, tuple(marks))


def indented(text: str) -> str:
    """JSON text over several lines, for a person."""
    return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
