"""What lies at a path, seen before SQLite touches it: a hold, nothing yet, or something else that is named.

Law: closing a plain descriptor of a database drops this process's SQLite locks on it. So `refuse_strangers` is
called only for a file that this process has not open.
"""

import os
import re
import struct

from holdfast.engine.schema import APPLICATION_ID, check_format
from holdfast.errors import CorruptError, MissingError, UnavailableError

HEADER_BYTES = 100
MAGIC = b"SQLite format 3\x00"

_LOOKS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\x7fELF", "a program"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"\x13\x57\x9a\xce", "a gdbm file"),
    (b"\xce\x9a\x57\x13", "a gdbm file"),
)
_APPLICATIONS = {0x47504B47: "GeoPackage", 0x0F055112: "Fossil", 0x4D504258: "MBTiles"}


def refuse_strangers(path: str, *, create: bool) -> bool:
    """Whether a file is there that may be a hold; False if there is none, and one may be made.

    Raises MissingError, or CorruptError for what is not a hold, which stays untouched.
    """
    if os.path.isdir(path):
        raise CorruptError(f"{path!r} is {_describe_directory(path)}, not a hold")
    try:
        with open(path, "rb", buffering=0) as file:
            header = file.read(HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        check_parent(path)
        if create:
            return False
        raise MissingError(
            f"there is no hold at {path!r}: check the path, or open it with create=True"
        ) from None
    except NotADirectoryError as error:
        raise MissingError(f"the directory of {path!r} does not exist, a file is in its place") from error
    except OSError as error:
        raise UnavailableError(
            f"{path!r} can't be read ({error.strerror}): see to its permissions"
        ) from error
    if not size:
        if create:
            return False
        raise CorruptError(f"{path!r} is empty, not a hold: restore a backup, or open it with create=True")
    _check_header(path, header, size)
    return True


def check_parent(path: str) -> None:
    parent = os.path.dirname(path) or "."
    if not os.path.isdir(parent):
        raise MissingError(f"the directory {parent!r} does not exist: make it first, then open {path!r}")


def _check_header(path: str, header: bytes, size: int) -> None:
    if not MAGIC.startswith(header[:16]) or header[:16] == b"":
        raise CorruptError(f"{path!r} is {_describe(header)}, not a hold; it was left as it is")
    if len(header) < HEADER_BYTES:
        raise CorruptError(f"{path!r} was cut off after {size} bytes: restore a backup")
    (page_bytes,) = struct.unpack_from(">H", header, 16)
    page_bytes = 65536 if page_bytes == 1 else page_bytes
    (pages,) = struct.unpack_from(">I", header, 28)
    (found_format,) = struct.unpack_from(">I", header, 60)
    (application,) = struct.unpack_from(">I", header, 68)
    (schema_cookie,) = struct.unpack_from(">I", header, 40)
    logged = has_log(path)
    if application not in (0, APPLICATION_ID):
        name = _APPLICATIONS.get(application, "another application")
        raise CorruptError(f"{path!r} is a SQLite database of {name}, not a hold; it was left as it is")
    if application == 0 and schema_cookie != 0:
        raise CorruptError(
            f"{path!r} is a SQLite database of another application, not a hold; it was left as it is"
        )
    if application == APPLICATION_ID:
        check_format(path, found_format)
    # With a log, pages may be there alone: a checkpoint that was killed has written the first page and not the last.
    if not logged and pages * page_bytes > size:
        raise CorruptError(
            f"{path!r} was cut off: it should have {pages * page_bytes} bytes and has {size}: restore a backup"
        )


def has_log(path: str) -> bool:
    try:
        return os.stat(path + "-wal").st_size > 0
    except OSError:
        return False


def _describe(header: bytes) -> str:
    for start, name in _LOOKS:
        if header.startswith(start):
            return name
    if header[:1] in (b"{", b"["):
        return "JSON"
    if not header.strip(b"\x00"):
        return "a file of zeros"
    try:
        header[:64].decode()
    except UnicodeDecodeError:
        return "a file of unknown kind"
    return "a text file"


def _describe_directory(path: str) -> str:
    try:
        names = os.listdir(path)
    except OSError:
        return "a directory"
    if names and all(re.fullmatch(r"\d+\.json(\.gz)?", name) for name in names):
        return f"a tastypy directory (bring it in with `holdfast import tastypy {path}`)"
    return "a directory"
