"""One edit of a structure in an editor: lines out, lines back, and what changed as one transaction.

The hold is not kept open, and nothing is locked, while a person thinks. What was there before is remembered, so
that only what the person changed is written, and a change that somebody else made to the same key is not undone.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from holdfast.cli import lines
from holdfast.cli.keys import shown
from holdfast.cli.stored import Structure, change, face, look
from holdfast.codec import Key, decode, encode
from holdfast.errors import ConflictError, HoldfastError, InvalidError
from holdfast.structures.dictionary import Dict

Texts = dict[Key, str]  # the value of each key as canonical JSON, in order


class Edit:
    """The text a person works on, and beside it the text as it was."""

    def __init__(self, file: str, structure: str, resume: Path | None) -> None:
        self.file, self.structure = file, structure
        if resume is None:
            self.text = Path(tempfile.mkdtemp(prefix="holdfast-edit-")) / "entries.jsonl"
            self._write_out()
        else:
            self.text = resume
        self.before = self.text.with_name("before.jsonl")
        if not (self.text.is_file() and self.before.is_file()):
            raise InvalidError(
                f"{str(resume)!r} is not the text of a refused edit: name the file that was kept"
            )

    def _write_out(self) -> None:
        with look(self.file) as hold:
            stored = Structure(hold, self.structure)
            text = "".join(lines.entry(key, value, stored.serializer) + "\n" for key, value in stored.items())
        self.text.write_text(text, encoding="utf-8")
        self.text.with_name("before.jsonl").write_text(text, encoding="utf-8")

    def run(self) -> str:
        """Edit until it can be written or the person gives up; what was done, in words."""
        while True:
            try:
                _open_editor(self.text)
                told = self._write_back()
            except HoldfastError as error:
                if sys.stdin.isatty() and click.confirm(
                    f"holdfast: {error}\nEdit again?", default=True, err=True
                ):
                    continue
                raise type(error)(
                    f"{error}; nothing was changed. Your text is kept: correct it by "
                    f"`holdfast edit {self.file} {self.structure} --resume {self.text}`"
                ) from None
            if self.text.parent.name.startswith("holdfast-edit-"):
                shutil.rmtree(self.text.parent)
            return told

    def _write_back(self) -> str:
        before, after = _read(self.before), _read(self.text)
        changed = {key: text for key, text in after.items() if before.get(key) != text}
        removed = [key for key in before if key not in after]
        if not changed and not removed and list(before) == list(after):
            return "nothing was changed"
        with change(self.file) as hold:
            target = face(hold, self.structure)
            with hold.transaction():
                _refuse_conflicts(target, before, [*changed, *removed])
                for key in removed:
                    del target[key]
                for key, text in changed.items():
                    target[key] = decode(text)
                if list(before) != list(after):
                    _reorder(target, list(after))
        new = sum(key not in before for key in changed)
        return f"{len(changed) - new:,} changed, {new:,} added, {len(removed):,} removed"


def _open_editor(text: Path) -> None:
    try:
        click.edit(filename=str(text), extension=".jsonl")
    except click.ClickException as error:
        raise InvalidError(f"the editor failed ({error.format_message()}): EDITOR names it") from None


def _read(path: Path) -> Texts:
    found: dict[Key, tuple[int, str]] = {}
    for one in lines.parse(path.read_text(encoding="utf-8").splitlines()):
        if isinstance(one, lines.Header) or one.stored is not None or one.marks:
            raise InvalidError(f'line {one.line} must be {{"key": …, "value": …}}')
        if one.key in found:
            raise InvalidError(
                f"lines {found[one.key][0]} and {one.line} have the same key, {shown(one.key)}"
            )
        found[one.key] = (one.line, encode(one.value))
    return {key: text for key, (_, text) in found.items()}


def _refuse_conflicts(target: Dict, before: Texts, keys: Iterable[Key]) -> None:
    missing: Any = object()
    for key in keys:
        now = target.get(key, missing)
        if (None if now is missing else encode(now)) != before.get(key):
            raise ConflictError(f"{shown(key)} in {target.name!r} was changed by somebody else meanwhile")


def _reorder(target: Dict, wanted: list[Key]) -> None:
    """Bring the keys into this order; those that others added meanwhile come first."""
    known = set(wanted)
    there = [key for key in target if key in known]
    first = next((n for n, (a, b) in enumerate(zip(there, wanted, strict=True)) if a != b), len(there))
    for key in wanted[first:]:
        target.move_to_end(key)
