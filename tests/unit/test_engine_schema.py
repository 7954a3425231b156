"""The tables, and bringing an older file up to date."""

import os
import signal
import struct
from pathlib import Path

import pytest

from holdfast.engine import connection, schema
from holdfast.engine.connection import Database
from holdfast.errors import CorruptError, ReadOnlyError

TABLES = ["batch", "entry", "intent", "meta", "node", "remote", "structure"]
NEXT = "ALTER TABLE meta ADD COLUMN note; CREATE TABLE later (id INTEGER PRIMARY KEY); INSERT INTO later VALUES (1)"


def tables(database: Database) -> list[str]:
    return [
        name for (name,) in database.rows("SELECT name FROM sqlite_schema WHERE type='table' ORDER BY name")
    ]


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holdfast that knows one format more."""
    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, NEXT])
    monkeypatch.setattr(schema, "FORMAT", schema.FORMAT + 1)
    monkeypatch.setattr(connection, "FORMAT", schema.FORMAT)


def test_a_new_file_has_all_tables_and_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.hold"
    database = Database.open(str(path))
    assert tables(database) == TABLES
    database.close(last=True)
    header = path.read_bytes()[:100]
    assert struct.unpack_from(">I", header, 68) == (schema.APPLICATION_ID,)
    assert struct.unpack_from(">I", header, 60) == (schema.FORMAT,)


def test_the_view_current_shows_live_entries_in_their_order() -> None:
    database = Database.open(":memory:")
    database.run("INSERT INTO structure(id, name, kind) VALUES (1, 'pages', 'dict')")
    insert = "INSERT INTO entry(id, structure, key, value, stamp, node, flags, seq) VALUES (?, 1, ?, ?, 0, 0, 0, 0)"
    database.many(
        insert, [((1 << 40) + 2, "b", "2"), ((1 << 40) + 1, "z", '{"n":1}'), ((1 << 40) + 3, "gone", None)]
    )
    assert database.rows("SELECT structure, key, value FROM current") == [
        ("pages", "z", '{"n":1}'),
        ("pages", "b", "2"),
    ]


@pytest.mark.usefixtures("newer")
def test_an_older_file_is_brought_up_to_date_and_keeps_what_it_has(tmp_path: Path) -> None:
    path = str(tmp_path / "x.hold")
    make_older(path)
    database = Database.open(path)
    assert database.value("PRAGMA user_version") == schema.FORMAT
    assert database.rows("SELECT key, value, note FROM meta") == [("kept", 1, None)]
    assert database.rows("SELECT id FROM later") == [(1,)]


@pytest.mark.usefixtures("newer")
def test_an_older_file_opened_only_for_reading_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    path = str(tmp_path / "x.hold")
    make_older(path)
    with pytest.raises(ReadOnlyError, match="open it once for writing"):
        Database.open(path, readonly=True)


def make_older(path: str) -> None:
    """A file of the format before the newest, as the holdfast of then left it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:-1])
        patch.setattr(schema, "FORMAT", schema.FORMAT - 1)
        patch.setattr(connection, "FORMAT", schema.FORMAT)
        database = Database.open(path)
        database.run("INSERT INTO meta(key, value) VALUES ('kept', 1)")
        database.close(last=True)


def test_a_newer_file_is_refused_naming_both_formats(tmp_path: Path) -> None:
    path = str(tmp_path / "x.hold")
    database = Database.open(path)
    database.run(f"PRAGMA user_version = {schema.FORMAT + 6}")
    database.close(last=True)
    before = Path(path).read_bytes()
    with pytest.raises(
        CorruptError, match=rf"format {schema.FORMAT + 6}.*up to {schema.FORMAT}: update holdfast"
    ):
        Database.open(path)
    assert Path(path).read_bytes() == before


def test_a_newer_file_is_refused_also_while_its_format_is_still_in_the_log(tmp_path: Path) -> None:
    path = str(tmp_path / "x.hold")
    first = Database.open(path)
    first.run(f"PRAGMA user_version = {schema.FORMAT + 1}")
    with pytest.raises(CorruptError, match="update holdfast"):
        Database.open(path)


@pytest.mark.usefixtures("newer")
def test_migrating_step_by_step_is_the_same_as_at_once() -> None:
    at_once = Database.open(":memory:")
    stepped = Database.open(":memory:")
    for (name,) in stepped.rows(
        "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name != 'sqlite'"
    ):
        stepped.run(f"DROP {'VIEW' if name == 'current' else 'TABLE'} {name}")
    stepped.run("PRAGMA user_version = 0")

    def found() -> int:
        return int(stepped.value("PRAGMA user_version"))

    for target in range(1, schema.FORMAT + 1):
        assert schema.migrate(stepped.run, found, upto=target) == 1
        assert found() == target
    assert schema.migrate(stepped.run, found) == 0
    wanted = "SELECT type, name, sql FROM sqlite_schema ORDER BY name"
    assert stepped.rows(wanted) == at_once.rows(wanted)


def test_a_step_that_fails_leaves_the_older_format_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database.open(":memory:")
    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, "CREATE TABLE half (id); SELECT nonsense"])
    with pytest.raises(Exception, match="nonsense"):
        schema.migrate(database.run, lambda: int(database.value("PRAGMA user_version")))
    assert tables(database) == TABLES
    assert database.value("PRAGMA user_version") == schema.FORMAT
    assert not database.in_transaction


@pytest.mark.usefixtures("newer")
@pytest.mark.parametrize("older", [False, True], ids=["making", "migrating"])
def test_a_kill_at_any_statement_leaves_a_file_that_opens(tmp_path: Path, older: bool) -> None:
    for statement in range(1, 13):
        path = str(tmp_path / f"{statement}.hold")
        if older:
            make_older(path)
        killed = open_and_die_at(path, statement)
        database = Database.open(path)
        assert tables(database) == sorted([*TABLES, "later"])
        assert database.value("SELECT count(*) FROM later") == 1
        assert database.value("SELECT value FROM meta WHERE key='kept'") == (1 if older else None)
        assert database.integrity() == []
        database.close()
        if not killed:
            return
    raise AssertionError("the migration has more statements than were tried")


def open_and_die_at(path: str, statement: int) -> bool:
    """Open the file in a child that kills itself before its n-th statement; whether it came to that."""
    pid = os.fork()
    if pid == 0:
        left = statement
        run = Database.run

        def counted(self: Database, sql: str, args: tuple[object, ...] = ()) -> None:
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            run(self, sql, args)

        Database.run = counted  # type: ignore[method-assign]
        try:
            Database.open(path)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
