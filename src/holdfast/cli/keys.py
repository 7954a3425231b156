"""Keys, values and words between the command line, the screen and JSON."""

from typing import Any

from holdfast.codec import Key, decode, encode, plain_key
from holdfast.errors import CorruptError, InvalidError


def from_json(text: str, what: str) -> Any:
    """The value of JSON text that a person gave. InvalidError names it as `what`."""
    try:
        return decode(text)
    except CorruptError:
        raise InvalidError(f"{what} is not JSON: {shortened(text, 60)}") from None


def key_of(value: Any) -> Key:
    """A key as JSON has it: lists stand for tuples. InvalidError for what can't be a key."""
    if isinstance(value, dict):
        raise InvalidError(
            f"{encode(value)} can't be a key: keys are strings, numbers, true, false, null or lists of them"
        )
    return plain_key(tuple(map(key_of, value)) if isinstance(value, list) else value)


def key_from(text: str, json_key: bool) -> Key:
    """The key that an argument means: its text, or with --json-key what the JSON stands for."""
    return key_of(from_json(text, "with --json-key, KEY")) if json_key else text


def key_meant_as_json(text: str) -> tuple[Key] | None:
    """The other key that a text may have meant; None if it is no JSON or no key."""
    try:
        return (key_of(decode(text)),)
    except (CorruptError, InvalidError):
        return None


def shown(key: Key) -> str:
    """A key for a screen: text as it is where that can't be mistaken, else as JSON."""
    if isinstance(key, str) and key.isprintable() and key == key.strip() and key:
        return key
    return printable(encode(key))


def printable(text: str) -> str:
    """The text with everything escaped that would move a terminal's cursor."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def shortened(text: str, width: int) -> str:
    """The text in one line of at most `width` characters."""
    text = printable(text[: width + 1])
    return text if len(text) <= width else text[: width - 1] + "…"
