"""Reading a directory of the original tastypy, and bringing it into a hold.

The directory holds `0.json`, `1.json`, … or, gzipped, `0.json.gz`, …; each but the last has the same number of
lines. A line is the key as JSON with every backslash doubled, a tab, and the value as JSON.

Law: a killed program can have cut off the end of the last file, so what is whole there is taken and what is lost
is told; anything else that is wrong is an error, and nothing is written.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.compat.tastypy_opening import (
    NAMES,
    OLD_FILE,
    PersistentOrderedDictIntegrityError,
    checked_key,
)
from holdfast.errors import InvalidError, MissingError
from holdfast.hold import Hold
from holdfast.hold import open as open_hold
from holdfast.structures.dictionary import Dict
from holdfast.structures.tracker import DEFAULTS

GZIP = 16 + zlib.MAX_WBITS
Progress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import brought in: `entries` from `files` files of `source`, now structure `name` in `target`.

    lost       what could not be read, a sentence each; empty if everything is there
    doubtful   what was taken, and may have been cut off all the same
    """

    source: str
    target: str
    name: str
    kind: str
    entries: int
    files: int
    lost: tuple[str, ...]
    doubtful: tuple[str, ...]

    def __str__(self) -> str:
        brought = (
            f"{self.entries:,} entries from {self.files:,} files of {self.source!r} are now the {self.kind} "
            f"{self.name!r} in {self.target!r}"
        )
        return "\n".join([brought, *(f"lost: {what}" for what in self.lost), *self.doubtful])


def import_tastypy(
    source_directory: str | os.PathLike[str],
    target_hold_path: str | os.PathLike[str],
    *,
    name: str | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Bring a directory of the original into the hold at `target_hold_path`, made if missing; all or nothing.

    The directory is only read. It becomes a tracker if all its values are tasks, else a dict; POD, Tracker and
    their shared kin open the target if `name` is left to be "pod" or "tracker".

    progress   called with the number of files that were read and how many there are to read; each is read twice

    Raises MissingError (no such directory), InvalidError (not a directory of tastypy; the structure is there
    already), PersistentOrderedDictIntegrityError (damaged, naming file and line).
    """
    target = os.path.realpath(os.path.expanduser(os.fspath(target_hold_path)))
    if os.path.isdir(target):
        raise InvalidError(f"{target!r} is a directory, and a hold is a file: give another path for the hold")
    step = _steps(progress, 2 * len(OldDirectory(source_directory).files))
    old = OldDirectory(source_directory, step)
    kind = _kind_of(old)
    hold = open_hold(target, sync_seconds=None)
    try:
        chosen = name or NAMES[kind]
        _refuse_filled(hold, chosen, kind)
        entries = _bring_in(hold, chosen, kind, OldDirectory(source_directory, step))
    finally:
        hold.close()
    return ImportReport(
        str(old.path), target, chosen, kind, entries, len(old.files), tuple(old.lost), tuple(old.doubtful)
    )


def _steps(progress: Progress | None, total: int) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return step


def _kind_of(old: "OldDirectory") -> str:
    """Reads everything once, so that damage is found before anything is written."""
    values = tasks = 0
    for _, value in old.items():
        values += 1
        tasks += isinstance(value, dict) and value.keys() >= DEFAULTS.keys()
    return "tracker" if values and tasks == values else "dict"


def _refuse_filled(hold: Hold, name: str, kind: str) -> None:
    found = hold.structures().get(name)
    # An empty one is what an import leaves that was killed before its end.
    if found is None or (found == kind and not _structure(hold, name, kind)):
        return
    raise InvalidError(
        f"{hold.path!r} has a {found} {name!r} already, which was left as it is: "
        "import under another name, or into another hold"
    )


def _structure(hold: Hold, name: str, kind: str) -> Dict:
    return hold.tracker(name) if kind == "tracker" else hold.dict(name)


def _bring_in(hold: Hold, name: str, kind: str, old: "OldDirectory") -> int:
    structure = _structure(hold, name, kind)
    with hold.transaction():
        for key, value in old.items():
            structure[key] = value
    return len(structure)


# -- reading --------------------------------------------------------------------------------------------------


class OldDirectory:
    """A directory of the original, read from beginning to end by `items()`, which fills `lost` and `doubtful`."""

    def __init__(self, path: str | os.PathLike[str], step: Callable[[], None] = lambda: None) -> None:
        self.path = Path(os.path.realpath(os.path.expanduser(os.fspath(path))))
        self.files = _files_in(self.path)
        self.lost: list[str] = []
        self.doubtful: list[str] = []
        self._step = step
        self._lines_a_file: int | None = None
        self._seen: dict[Any, str] = {}

    def items(self) -> Iterator[tuple[Any, Any]]:
        """All pairs, in order. Raises PersistentOrderedDictIntegrityError."""
        for file in self.files[:-1]:
            yield from self._whole_file(file)
        yield from self._last_file(self.files[-1])

    def _whole_file(self, file: Path) -> Iterator[tuple[Any, Any]]:
        text, is_whole = _content(file)
        if not is_whole:
            raise _damaged(f"{str(file)!r} is cut off, and it is not the last one")
        lines = text.removesuffix(b"\n").split(b"\n") if text else []
        expected = self._lines_a_file = self._lines_a_file or len(lines)
        yield from (self._pair(file, number, line) for number, line in enumerate(lines, 1))
        if len(lines) != expected or not lines:
            raise _damaged(
                f"{str(file)!r} has {len(lines)} lines, and should have {expected or 'some'} as the first file has"
            )
        self._step()

    def _last_file(self, file: Path) -> Iterator[tuple[Any, Any]]:
        text, is_whole = _content(file)
        *lines, rest = text.split(b"\n")
        for number, line in enumerate(lines, 1):
            yield self._pair(file, number, line)
        if rest:
            yield from self._last_line(file, len(lines) + 1, rest)
        if not text:
            self.lost.append(f"{file.name} is empty: whatever was in it")
        elif not is_whole and not self.lost:
            self.lost.append(f"{file.name} is cut off after line {len(lines)}: whatever followed")
        self._step()

    def _last_line(self, file: Path, number: int, line: bytes) -> Iterator[tuple[Any, Any]]:
        """A line without its newline: whole if it can be read."""
        try:
            key, value = parse_line(line)
        except ValueError:
            self.lost.append(
                f"{file.name} is cut off in line {number}: {_name_of(line)}, and whatever followed"
            )
            return
        yield self._new(file, number, key), value
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.doubtful.append(
                f"{file.name} ends in line {number} without a newline: {key!r} is {value!r}, unless digits were cut off"
            )

    def _pair(self, file: Path, number: int, line: bytes) -> tuple[Any, Any]:
        try:
            key, value = parse_line(line)
        except ValueError as error:
            raise _damaged(f"{str(file)!r}, line {number}: {error}") from None
        return self._new(file, number, key), value

    def _new(self, file: Path, number: int, key: Any) -> Any:
        here = f"{file.name}, line {number}"
        first = self._seen.setdefault(key, here)
        if first is not here:
            raise _damaged(f"{str(file)!r}, line {number}: the key {key!r} is in {first} already")
        return key


def parse_line(line: bytes) -> tuple[Any, Any]:
    """Key and value of one line. Raises ValueError, saying what is wrong with it."""
    head, tab, tail = line.decode().partition("\t")
    if not tab:
        raise ValueError(f"there is no tab between a key and a value in {head[:60]!r}")
    try:
        return _parse_key(head), json.loads(tail)
    except RecursionError:
        raise ValueError("its value is nested too deep") from None


def _parse_key(text: str) -> Any:
    return checked_key(_tuples(json.loads(text.replace("\\\\", "\\"))))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _name_of(line: bytes) -> str:
    """Which entry a cut line would have been."""
    head, tab, _ = line.decode(errors="replace").partition("\t")
    if not tab:
        return "an entry whose key is cut too"
    try:
        return f"the value of {_parse_key(head)!r}"
    except ValueError:
        return f"an entry whose key can't be read, {head[:60]!r}"


def _content(file: Path) -> tuple[bytes, bool]:
    """The text of a file, or as much of it as there is; and whether that is all, as far as can be told."""
    stored = file.read_bytes()
    return _unzip(file, stored) if file.suffix == ".gz" else (stored, True)


def _unzip(file: Path, stored: bytes) -> tuple[bytes, bool]:
    text = b""
    while True:
        stream = zlib.decompressobj(GZIP)
        try:
            text += stream.decompress(stored)
        except zlib.error as error:
            raise _damaged(
                f"{str(file)!r}, after line {text.count(10)}: it can't be unzipped ({error})"
            ) from None
        if not stream.eof:
            return text, False
        stored = stream.unused_data.lstrip(b"\x00")
        if not stored:
            return text, True


def _files_in(directory: Path) -> list[Path]:
    """Its files in order, complete and of one sort."""
    if not directory.is_dir():
        if directory.exists():
            raise InvalidError(f"{str(directory)!r} is a file, and tastypy keeps its data in a directory")
        raise MissingError(f"there is no directory {str(directory)!r}: check the path")
    found = [
        (int(match[1]), match[2] or "")
        for name in os.listdir(directory)
        if (match := OLD_FILE.fullmatch(name))
    ]
    if not found:
        raise InvalidError(
            f"{str(directory)!r} is no directory of tastypy: there is no 0.json or 0.json.gz in it"
        )
    endings = {ending for _, ending in found}
    if len(endings) > 1:
        raise InvalidError(
            f"{str(directory)!r} has plain files and gzipped ones, which are two sets of data: "
            "move one of them to a directory of its own"
        )
    (ending,) = endings
    numbers = sorted(number for number, _ in found)
    for expected, number in enumerate(numbers):
        if number != expected:
            raise _damaged(
                f"{str(directory / f'{expected}.json{ending}')!r} is missing, and there is {number}.json{ending}"
            )
    return [directory / f"{number}.json{ending}" for number in numbers]


def _damaged(what: str) -> PersistentOrderedDictIntegrityError:
    return PersistentOrderedDictIntegrityError(
        f"{what}; nothing was imported: restore the file from a backup, or mend it in an editor, and import again"
    )
