"""Speaking to the file: statements, transactions, copies, threads."""

import os
import threading
from pathlib import Path

import pytest

from holdfast.engine.connection import Database
from holdfast.errors import InvalidError, MissingError

FILES = ["x.hold", "x.hold-seq", "x.hold-shm", "x.hold-wal"]


@pytest.fixture(params=["file", "memory"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return Database.open(str(tmp_path / "x.hold") if request.param == "file" else ":memory:")


def test_value_is_the_first_column_of_the_first_row_or_none(database: Database) -> None:
    database.many("INSERT INTO meta VALUES (?, ?)", [("a", 1), ("b", None), ("c", "text"), ("d", b"\x00")])
    assert database.value("SELECT value FROM meta WHERE key=?", ("a",)) == 1
    assert database.value("SELECT value FROM meta WHERE key='b'") is None
    assert database.value("SELECT value FROM meta WHERE key='z'") is None
    assert database.value("SELECT key, value FROM meta WHERE key='c'") == "c"
    assert database.value("SELECT key FROM meta ORDER BY key DESC") == "d"
    assert database.value("SELECT key, value FROM meta ORDER BY key") == "a"
    assert database.value("SELECT value FROM meta WHERE key='d'") == b"\x00"


def test_rows_are_all_rows(database: Database) -> None:
    assert database.rows("SELECT * FROM meta") == []
    database.many("INSERT INTO meta VALUES (?, ?)", ((f"{n}", n) for n in range(3)))
    assert database.rows("SELECT key, value FROM meta ORDER BY key") == [("0", 0), ("1", 1), ("2", 2)]


def test_changes_counts_the_rows_of_the_last_statement(database: Database) -> None:
    database.many("INSERT INTO meta VALUES (?, 0)", [("a",), ("b",)])
    database.run("UPDATE meta SET value = 1")
    assert database.changes() == 2


def test_a_transaction_is_whole_or_nothing(database: Database) -> None:
    database.begin()
    assert database.in_transaction
    database.run("INSERT INTO meta VALUES ('a', 1)")
    database.rollback()
    assert not database.in_transaction
    database.rollback()
    database.begin()
    database.run("INSERT INTO meta VALUES ('b', 1)")
    database.commit()
    assert database.rows("SELECT key FROM meta") == [("b",)]


def test_a_backup_is_a_hold_of_that_moment(database: Database, tmp_path: Path) -> None:
    database.run("INSERT INTO meta VALUES ('a', 1)")
    database.backup(str(tmp_path / "copy.hold"))
    database.run("INSERT INTO meta VALUES ('b', 1)")
    copy = Database.open(str(tmp_path / "copy.hold"))
    assert copy.rows("SELECT key FROM meta") == [("a",)]
    assert copy.integrity() == []
    assert not list(tmp_path.glob("*.partial"))


def test_a_backup_never_overwrites(database: Database, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("precious")
    with pytest.raises(InvalidError, match="exists already"):
        database.backup(str(tmp_path / "there"))
    assert (tmp_path / "there").read_text() == "precious"
    with pytest.raises(MissingError, match="nowhere"):
        database.backup(str(tmp_path / "nowhere" / "copy"))


def test_a_backup_is_made_beside_an_open_transaction(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "x.hold"))
    database.run("INSERT INTO meta VALUES ('a', 1)")
    database.begin()
    database.run("INSERT INTO meta VALUES ('b', 1)")
    database.backup(str(tmp_path / "copy.hold"))
    database.commit()
    assert Database.open(str(tmp_path / "copy.hold")).rows("SELECT key FROM meta") == [("a",)]


def test_a_path_with_odd_characters_is_a_path_like_any(tmp_path: Path) -> None:
    path = str(tmp_path / "a?b#c%20 ü'.hold")
    Database.open(path).close(last=True)
    reader = Database.open(path, readonly=True)
    assert reader.value("SELECT count(*) FROM meta") == 0
    reader.backup(path + ".copy")
    assert os.path.exists(path + ".copy")


def test_a_symbolic_link_leads_to_the_same_hold_and_side_files(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.hold").symlink_to(tmp_path / "real" / "x.hold")
    linked = Database.open(str(tmp_path / "link.hold"))
    real = Database.open(str(tmp_path / "real" / "x.hold"))
    linked.counter.words[0] = 7
    assert real.counter.words[0] == 7
    assert sorted(os.listdir(tmp_path / "real")) == FILES


def test_the_last_to_close_leaves_one_file_and_the_counter(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "x.hold"))
    database.run("INSERT INTO meta VALUES ('a', 1)")
    assert sorted(os.listdir(tmp_path)) == FILES
    database.close(last=True)
    assert sorted(os.listdir(tmp_path)) == ["x.hold", "x.hold-seq"]


def test_all_side_files_may_be_deleted_while_closed(tmp_path: Path) -> None:
    path = str(tmp_path / "x.hold")
    database = Database.open(path)
    database.run("INSERT INTO meta VALUES ('a', 1)")
    database.counter.words[0] = 12
    database.close(last=True)
    os.unlink(path + "-seq")
    again = Database.open(path)
    assert again.alone
    assert again.counter.words[0] == 0
    assert again.value("SELECT value FROM meta") == 1
    again.gate.acquire(1)
    again.gate.release(1)


def test_the_side_file_has_the_permissions_of_the_hold(tmp_path: Path) -> None:
    path = tmp_path / "x.hold"
    Database.open(str(path)).close(last=True)
    (tmp_path / "x.hold-seq").unlink()
    path.chmod(0o660)
    Database.open(str(path)).close()
    assert (tmp_path / "x.hold-seq").stat().st_mode & 0o777 == 0o660


def test_a_checkpoint_brings_the_log_into_the_file(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "x.hold"))
    database.run("INSERT INTO meta VALUES ('a', 1)")
    assert database.checkpoint(truncate=True)
    assert (tmp_path / "x.hold-wal").stat().st_size == 0


def test_durability_full_waits_for_the_disk(tmp_path: Path) -> None:
    path = str(tmp_path / "x.hold")
    assert Database.open(path, durability="full").value("PRAGMA synchronous") == 2
    assert Database.open(path).value("PRAGMA synchronous") == 1
    assert Database.open(path).value("PRAGMA journal_mode") == "wal"


def test_a_reader_sees_what_a_writer_commits(tmp_path: Path) -> None:
    path = str(tmp_path / "x.hold")
    writer = Database.open(path)
    reader = Database.open(path, readonly=True)
    writer.run("INSERT INTO meta VALUES ('a', 1)")
    writer.counter.words[0] = 1
    assert reader.counter.words[0] == 1
    assert reader.value("SELECT value FROM meta") == 1


def test_threads_may_share_a_database(database: Database) -> None:
    failures: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for number in range(200):
                database.run("INSERT INTO meta VALUES (?, ?)", (f"{name}-{number}", number))
                assert database.value("SELECT value FROM meta WHERE key=?", (f"{name}-{number}",)) == number
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert database.value("SELECT count(*) FROM meta") == 1600


def test_closing_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    before = (
        len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else pytest.skip("no /proc here")
    )
    for number in range(5):
        database = Database.open(str(tmp_path / f"{number}.hold"))
        database.run("INSERT INTO meta VALUES ('a', 1)")
        database.close(last=number % 2 == 0)
    assert len(os.listdir("/proc/self/fd")) == before
