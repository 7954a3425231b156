"""The contestants, each as its documentation would have a careful user write it.

All survive a killed process and none pays for a power cut at each commit (SQLite: WAL and synchronous=NORMAL;
LMDB: sync=False), except ZODB and shelve, which have no such mode. Those that store bytes get the codec that
Holdfast uses: orjson out, msgspec in. Libraries are imported when a contestant is made, so that one that is
not installed costs nothing but its column.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Changes = list[tuple[str, Any]]
TASTYPY = "HOLDFAST_BENCH_TASTYPY"


def codec() -> tuple[Callable[[Any], bytes], Callable[[Any], Any]]:
    """(encode, decode), as fast as they come."""
    import msgspec
    import orjson

    return orjson.dumps, msgspec.json.Decoder().decode


class Store:
    """What is asked of each contestant. `path` is a place of its own that does not exist yet, or was its before."""

    title = ""
    module = ""  # what must be importable

    def __init__(self, path: str) -> None:
        raise NotImplementedError

    def load(self, items: Changes) -> None:
        """Store many new entries in the fastest way it documents, safe in the file at the end."""
        self.update(items)

    def update(self, changes: Changes) -> None:
        """Store these values and make them safe in the file."""
        raise NotImplementedError

    def get(self, key: str) -> Any:
        raise NotImplementedError

    def values(self) -> Iterator[Any]:
        raise NotImplementedError

    def settle(self) -> None:
        """Do now what it has put off until later."""

    def close(self) -> None:
        """End, with everything safe."""


class Plain(Store):
    """A dict: the limit, and nothing is safe."""

    title = "dict"
    module = "builtins"

    def __init__(self, path: str) -> None:
        self.dict: dict[str, Any] = {}

    def update(self, changes: Changes) -> None:
        table = self.dict
        for key, value in changes:
            table[key] = value

    def get(self, key: str) -> Any:
        return self.dict[key]

    def values(self) -> Iterator[Any]:
        return iter(self.dict.values())


class Holdfast(Store):
    title = "holdfast"
    module = "holdfast"

    def __init__(self, path: str, **options: Any) -> None:
        import holdfast

        self.hold: Any = holdfast.open(path, **options)
        self.dict: Any = self.hold.dict("d")

    def load(self, items: Changes) -> None:
        self.dict.update(items)
        self.dict.sync()

    def update(self, changes: Changes) -> None:
        table = self.dict
        for key, value in changes:
            table[key] = value
        table.sync()

    def get(self, key: str) -> Any:
        return self.dict[key]

    def values(self) -> Iterator[Any]:
        return iter(self.dict.values())

    def settle(self) -> None:
        self.hold.fold()

    def close(self) -> None:
        self.hold.close()


TABLE = "CREATE TABLE IF NOT EXISTS entry (key TEXT PRIMARY KEY, value TEXT NOT NULL)"
UPSERT = "INSERT INTO entry VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


class Apsw(Store):
    title = "apsw"
    module = "apsw"
    tuning: tuple[str, ...] = ()

    def __init__(self, path: str) -> None:
        import apsw

        self._encode, self._decode = codec()
        self._connection: Any = apsw.Connection(path)
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", *self.tuning):
            self._connection.execute(f"PRAGMA {pragma}").fetchall()
        self._connection.execute(TABLE)

    def update(self, changes: Changes) -> None:
        encode = self._encode
        self.upsert([(key, encode(value).decode()) for key, value in changes])

    def upsert(self, rows: Iterable[tuple[str, str]]) -> None:
        with self._connection:
            self._connection.executemany(UPSERT, rows)

    def get(self, key: str) -> Any:
        row = self._connection.execute("SELECT value FROM entry WHERE key = ?", (key,)).fetchone()
        return self._decode(row[0])

    def values(self) -> Iterator[Any]:
        decode = self._decode
        for (text,) in self._connection.execute("SELECT value FROM entry ORDER BY rowid"):
            yield decode(text)

    def settle(self) -> None:
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        self._connection.close()


class ApswTuned(Apsw):
    """The whole table in SQLite's cache, and a checkpoint each 40 MB instead of each 4."""

    title = "apsw tuned"
    tuning = ("cache_size=-64000", "wal_autocheckpoint=10000")


class Sqlite3(Store):
    title = "sqlite3"
    module = "sqlite3"

    def __init__(self, path: str) -> None:
        import sqlite3

        self._encode, self._decode = codec()
        self._connection = sqlite3.connect(path)
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
            self._connection.execute(f"PRAGMA {pragma}").fetchall()
        self._connection.execute(TABLE)

    def update(self, changes: Changes) -> None:
        encode = self._encode
        with self._connection:
            self._connection.executemany(UPSERT, [(key, encode(value).decode()) for key, value in changes])

    def get(self, key: str) -> Any:
        row = self._connection.execute("SELECT value FROM entry WHERE key = ?", (key,)).fetchone()
        return self._decode(row[0])

    def close(self) -> None:
        self._connection.close()


class Lmdb(Store):
    title = "lmdb"
    module = "lmdb"

    def __init__(self, path: str) -> None:
        lmdb: Any = importlib.import_module("lmdb")
        self._encode, self._decode = codec()
        self._environment = lmdb.open(path, map_size=4 << 30, sync=False)

    def update(self, changes: Changes) -> None:
        encode = self._encode
        with self._environment.begin(write=True) as transaction:
            for key, value in changes:
                transaction.put(key.encode(), encode(value))

    def get(self, key: str) -> Any:
        with self._environment.begin() as transaction:
            return self._decode(transaction.get(key.encode()))

    def close(self) -> None:
        self._environment.sync(True)
        self._environment.close()


class Rocksdict(Store):
    title = "rocksdict"
    module = "rocksdict"

    def __init__(self, path: str) -> None:
        rocksdict: Any = importlib.import_module("rocksdict")
        self._encode, self._decode = codec()
        self._batch = rocksdict.WriteBatch
        self._database = rocksdict.Rdict(path, options=rocksdict.Options(raw_mode=True))

    def update(self, changes: Changes) -> None:
        encode = self._encode
        batch = self._batch(raw_mode=True)
        for key, value in changes:
            batch.put(key.encode(), encode(value))
        self._database.write(batch)

    def get(self, key: str) -> Any:
        return self._decode(self._database[key.encode()])

    def close(self) -> None:
        self._database.close()


class Diskcache(Store):
    title = "diskcache"
    module = "diskcache"

    def __init__(self, path: str) -> None:
        diskcache: Any = importlib.import_module("diskcache")
        self.index = diskcache.Index(path)

    def update(self, changes: Changes) -> None:
        with self.index.transact():
            for key, value in changes:
                self.index[key] = value

    def get(self, key: str) -> Any:
        return self.index[key]

    def close(self) -> None:
        self.index.cache.close()


class Sqlitedict(Store):
    title = "sqlitedict"
    module = "sqlitedict"

    def __init__(self, path: str) -> None:
        sqlitedict: Any = importlib.import_module("sqlitedict")
        self._dict = sqlitedict.SqliteDict(path, journal_mode="WAL", outer_stack=False)

    def load(self, items: Changes) -> None:
        self._dict.update(items)
        self._dict.commit()

    def update(self, changes: Changes) -> None:
        for key, value in changes:
            self._dict[key] = value
        self._dict.commit()

    def get(self, key: str) -> Any:
        return self._dict[key]

    def close(self) -> None:
        self._dict.close()


class Shelve(Store):
    title = "shelve"
    module = "shelve"

    def __init__(self, path: str) -> None:
        import shelve

        self._shelf = shelve.open(path)  # noqa: SIM115 - closed in close()

    def update(self, changes: Changes) -> None:
        for key, value in changes:
            self._shelf[key] = value
        self._shelf.sync()

    def get(self, key: str) -> Any:
        return self._shelf[key]

    def close(self) -> None:
        self._shelf.close()


class Booklet(Store):
    title = "booklet"
    module = "booklet"

    def __init__(self, path: str) -> None:
        booklet: Any = importlib.import_module("booklet")
        self._book = booklet.open(
            path, "n", key_serializer="str", value_serializer="orjson", n_buckets=100_003
        )

    def update(self, changes: Changes) -> None:
        for key, value in changes:
            self._book[key] = value
        self._book.sync()

    def get(self, key: str) -> Any:
        return self._book[key]

    def close(self) -> None:
        self._book.close()


class Zodb(Store):
    title = "ZODB"
    module = "ZODB"

    def __init__(self, path: str) -> None:
        zodb: Any = importlib.import_module("ZODB")
        files: Any = importlib.import_module("ZODB.FileStorage")
        trees: Any = importlib.import_module("BTrees.OOBTree")
        self._transaction: Any = importlib.import_module("transaction")
        self._database = zodb.DB(files.FileStorage(path))
        root = self._database.open().root()
        if "tree" not in root:
            root["tree"] = trees.OOBTree()
        self._tree = root["tree"]

    def update(self, changes: Changes) -> None:
        for key, value in changes:
            self._tree[key] = value
        self._transaction.commit()

    def get(self, key: str) -> Any:
        return self._tree[key]

    def close(self) -> None:
        self._database.close()


class Tastypy(Store):
    """The library whose interface Holdfast also speaks, where somebody has made it run on this Python.

    $HOLDFAST_BENCH_TASTYPY is the directory to import `tastypy` from.
    """

    title = "tastypy"
    module = "tastypy"

    def __init__(self, path: str) -> None:
        sys.path.insert(0, os.environ[TASTYPY])
        tastypy: Any = importlib.import_module("tastypy")
        self._pod = tastypy.PersistentOrderedDict(path)

    def update(self, changes: Changes) -> None:
        for key, value in changes:
            self._pod[key] = value
        self._pod.sync()

    def get(self, key: str) -> Any:
        return self._pod[key]


def imported(store: type[Store]) -> None:
    """Import now what the contestant needs, so that no clock runs meanwhile."""
    importlib.import_module(store.module)
    codec()


def installed(store: type[Store]) -> bool:
    if store is Tastypy:
        return TASTYPY in os.environ
    return store.module in sys.builtin_module_names or importlib.util.find_spec(store.module) is not None


def present(*stores: type[Store]) -> tuple[list[type[Store]], list[str]]:
    """(those that are installed, the titles of those that are not)."""
    return [s for s in stores if installed(s)], [s.title for s in stores if not installed(s)]
