"""The tables of a hold, and how an older file becomes a newer one.

`PRAGMA user_version` is the format of a file: how many of the migrations it has been through. Each migration is
plain SQL and runs in one transaction together with its number, so a kill leaves a file of one format or the next.
A migration that was released is never edited: a change is a new one at the end.
"""

from collections.abc import Callable

from holdfast.errors import CorruptError

APPLICATION_ID = 0x484C4446
"""`PRAGMA application_id`: the letters HLDF, by which `file` and we recognise a hold."""

MIGRATIONS: list[str] = [
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
    CREATE TABLE structure (
        id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, kind TEXT NOT NULL,
        options TEXT NOT NULL DEFAULT '{}', schema TEXT
    );
    CREATE TABLE entry (
        id INTEGER PRIMARY KEY, structure INTEGER NOT NULL, key NOT NULL, value, stamp INTEGER NOT NULL,
        node INTEGER NOT NULL, flags INTEGER NOT NULL, inner BLOB, seq INTEGER NOT NULL, UNIQUE (structure, key)
    );
    CREATE TABLE batch (
        seq INTEGER PRIMARY KEY, source INTEGER NOT NULL, stamp INTEGER NOT NULL, keys BLOB NOT NULL,
        changes BLOB NOT NULL
    );
    CREATE TABLE node (id INTEGER PRIMARY KEY, uid INTEGER UNIQUE NOT NULL);
    CREATE TABLE remote (
        id INTEGER PRIMARY KEY, url TEXT UNIQUE NOT NULL, sent INTEGER NOT NULL DEFAULT 0,
        "commit" INTEGER NOT NULL DEFAULT 0, etag TEXT, head BLOB, horizon INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE intent (remote INTEGER, nonce BLOB, seq INTEGER);
    CREATE VIEW current AS
        SELECT structure.name AS structure, entry.key AS key, entry.value AS value
        FROM entry JOIN structure ON structure.id = entry.structure
        WHERE entry.value IS NOT NULL ORDER BY entry.id;
    """,
]

FORMAT = len(MIGRATIONS)
"""The format that this version of Holdfast reads and writes."""


def check_format(path: str, found: int) -> None:
    """Refuse a file that a newer Holdfast wrote."""
    if found > FORMAT:
        raise CorruptError(
            f"{path!r} has format {found}, and this version of holdfast knows formats up to {FORMAT}: update holdfast"
        )


def migrate(run: Callable[[str], object], found: Callable[[], int], upto: int | None = None) -> int:
    """Bring a file from the format that `found()` tells to `upto` (default: the newest), one step after another.

    `run` executes SQL on a connection that is in no transaction. Returns how many steps were taken. Safe beside
    other processes and against a kill at any instant; whoever was killed half way leaves a whole older format.
    """
    target = len(MIGRATIONS) if upto is None else upto
    steps = 0
    while found() < target:
        run("BEGIN IMMEDIATE")
        try:
            have = found()  # again, inside the transaction: somebody else may have been faster
            if have < target:
                run(MIGRATIONS[have])
                run(f"PRAGMA application_id = {APPLICATION_ID}")
                run(f"PRAGMA user_version = {have + 1}")
                steps += 1
            run("COMMIT")
        except BaseException:
            run("ROLLBACK")
            raise
    return steps
