"""`d.set["a"]["n"] += 1`: a path into a structure, on which every operation is one atomic step."""

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from holdfast.structures.tracked import plain

if TYPE_CHECKING:
    from holdfast.structures.dictionary import Dict

_DONE: Any = object()  # what an in-place operator leaves for the assignment that Python makes after it


class Path:
    """Where in a structure an operation is to happen; `[]` goes deeper, anything else happens there.

    Operators with assignment, item and slice assignment, `del` and method calls are atomic, also between
    processes; an exception inside reaches the caller and nothing is written. A method's result comes back in
    builtin containers. To read, leave `.set` out.
    """

    __slots__ = ("_dict", "_steps")

    def __init__(self, target: "Dict", steps: tuple[Any, ...]) -> None:
        self._dict = target
        self._steps = steps

    def __getitem__(self, key: Any) -> "Path":
        return Path(self._dict, (*self._steps, key))

    def __setitem__(self, key: Any, value: Any) -> None:
        if value is not _DONE:
            self._at(lambda target: operator.setitem(target, key, value))

    def __delitem__(self, key: Any) -> None:
        self._at(lambda target: operator.delitem(target, key))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **keywords: Any) -> Any:
            return self._at(lambda target: getattr(target, name)(*args, **keywords))

        call.__name__ = name
        return call

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        raise TypeError(f"{self!r} can't be called: call a method of it")

    def _at(self, change: Callable[[Any], Any]) -> Any:
        """Run `change` on what the path leads to, atomically."""
        target = self._dict

        def run() -> Any:
            found: Any = target
            for step in self._steps:
                found = found[step]
            return plain(change(found))

        return target._atomic_change(self._steps[:1], run)

    def _in_place(self, combine: Callable[[Any, Any], Any], operand: Any) -> Any:
        *way, last = self._steps
        target = self._dict
        if not way:
            target._combine(last, combine, operand)
            return _DONE

        def run() -> None:
            found: Any = target
            for step in way:
                found = found[step]
            old = found[last]
            new = combine(old, operand)
            if new is not old:
                found[last] = new

        target._atomic_change(self._steps[:1], run)
        return _DONE

    def __iadd__(self, other: Any) -> Any:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place(operator.imul, other)

    def __imatmul__(self, other: Any) -> Any:
        return self._in_place(operator.imatmul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place(operator.itruediv, other)

    def __ifloordiv__(self, other: Any) -> Any:
        return self._in_place(operator.ifloordiv, other)

    def __imod__(self, other: Any) -> Any:
        return self._in_place(operator.imod, other)

    def __ipow__(self, other: Any) -> Any:
        return self._in_place(operator.ipow, other)

    def __ilshift__(self, other: Any) -> Any:
        return self._in_place(operator.ilshift, other)

    def __irshift__(self, other: Any) -> Any:
        return self._in_place(operator.irshift, other)

    def __iand__(self, other: Any) -> Any:
        return self._in_place(operator.iand, other)

    def __ixor__(self, other: Any) -> Any:
        return self._in_place(operator.ixor, other)

    def __ior__(self, other: Any) -> Any:
        return self._in_place(operator.ior, other)

    def _refuse_reading(self) -> NoReturn:
        where = "".join(f"[{step!r}]" for step in self._steps)
        raise TypeError(f"{self!r} is for changing; to read, leave `.set` out: d{where}")

    def __len__(self) -> int:
        self._refuse_reading()

    def __iter__(self) -> Any:
        self._refuse_reading()

    def __contains__(self, item: object) -> bool:
        self._refuse_reading()

    def __bool__(self) -> bool:
        self._refuse_reading()

    def __eq__(self, other: object) -> bool:
        self._refuse_reading()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<path {self._dict.name!r}.set{''.join(f'[{step!r}]' for step in self._steps)}>"
