"""What a file that can't be opened gets: a clear error that names it, and to be left as it is."""

import gzip
import os
import pickle
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from holdfast.engine import opening, recognise
from holdfast.engine.connection import Database
from holdfast.errors import (
    BusyError,
    ClosedError,
    ConflictError,
    CorruptError,
    InvalidError,
    MissingError,
    ReadOnlyError,
    UnavailableError,
)

NOBODY = 65534


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")


def foreign(path: Path, *statements: str) -> None:
    other = apsw.Connection(str(path))
    for statement in statements:
        other.execute(statement).fetchall()
    other.close()


def a_hold(path: Path) -> None:
    database = Database.open(str(path))
    database.begin()
    database.many("INSERT INTO meta VALUES (?, ?)", [(f"key {n}", "x" * 100) for n in range(1000)])
    database.commit()
    database.close(last=True)


def cut_hold(path: Path) -> None:
    a_hold(path)
    os.truncate(path, 3 * 4096)


def cut_header(path: Path) -> None:
    path.write_bytes(recognise.MAGIC + b"\x10\x00")


def cut_magic(path: Path) -> None:
    path.write_bytes(recognise.MAGIC[:7])


STRANGERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("dear diary"), "a text file"),
    "JSON": (lambda path: path.write_text('{"a": 1}'), "JSON"),
    "zip": (zipped, "a zip archive"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"x")), "a gzip file"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({1: 2}, protocol=4)), "a pickle"),
    "zeros": (lambda path: path.write_bytes(bytes(8192)), "a file of zeros"),
    "noise": (lambda path: path.write_bytes(b"\xff\xfe\xfd" * 50), "a file of unknown kind"),
    "SQLite of another": (
        lambda path: foreign(path, "CREATE TABLE t (x)"),
        "SQLite database of another application",
    ),
    "SQLite of another with a log": (
        lambda path: foreign(path, "PRAGMA journal_mode = WAL", "CREATE TABLE t (x)"),
        "SQLite database of another application",
    ),
    "a GeoPackage": (lambda path: foreign(path, f"PRAGMA application_id = {0x47504B47}"), "GeoPackage"),
    "cut off": (cut_hold, "was cut off: it should have [0-9]+ bytes and has 12288: restore a backup"),
    "cut off in the header": (cut_header, "was cut off after 18 bytes"),
    "cut off in the first word": (cut_magic, "was cut off after 7 bytes"),
    "directory": (lambda path: path.mkdir(), "a directory"),
    "tastypy directory": (
        lambda path: (path.mkdir(), (path / "0.json.gz").touch(), (path / "1.json.gz").touch()),
        "a tastypy directory .bring it in with `holdfast import tastypy",
    ),
}


@pytest.mark.parametrize("readonly", [False, True], ids=["writing", "reading"])
@pytest.mark.parametrize("kind", STRANGERS)
def test_what_is_not_a_hold_is_named_and_left_as_it_is(tmp_path: Path, kind: str, readonly: bool) -> None:
    make, looks_like = STRANGERS[kind]
    path = tmp_path / "x.hold"
    make(path)
    for beside in tmp_path.glob("x.hold-*"):
        beside.unlink()
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(CorruptError, match=looks_like) as caught:
        Database.open(str(path), readonly=readonly)
    assert str(path) in str(caught.value)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_another_application_s_database_is_refused_while_its_tables_are_in_the_log_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.db"
    other = apsw.Connection(str(path))
    other.execute("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)").fetchall()
    refused = "from holdfast.engine.connection import Database; import sys; Database.open(sys.argv[1])"
    result = subprocess.run([sys.executable, "-c", refused, str(path)], capture_output=True, text=True)
    assert "CorruptError" in result.stderr and "another application" in result.stderr
    assert other.execute("SELECT x FROM t").get == 1
    assert other.execute("PRAGMA application_id").get == 0


def test_an_empty_file_becomes_a_hold_if_one_may_be_made(tmp_path: Path) -> None:
    path = tmp_path / "x.hold"
    path.touch()
    with pytest.raises(CorruptError, match="is empty"):
        Database.open(str(path), create=False)
    Database.open(str(path)).close()
    Database.open(str(path), create=False).close()


def test_a_database_without_tables_becomes_a_hold(tmp_path: Path) -> None:
    path = tmp_path / "x.hold"  # as a kill in the middle of making one leaves it
    foreign(path, "PRAGMA journal_mode = WAL")
    assert Database.open(str(path)).value("SELECT count(*) FROM entry") == 0


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    for options in ({"create": False}, {"readonly": True}):
        with pytest.raises(MissingError, match=r"there is no hold at .*x\.hold"):
            Database.open(str(tmp_path / "x.hold"), **options)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"the directory '.*nowhere' does not exist"):
        Database.open(str(tmp_path / "nowhere" / "x.hold"))
    (tmp_path / "file").touch()
    with pytest.raises(MissingError, match="a file is in its place"):
        Database.open(str(tmp_path / "file" / "x.hold"))


def test_an_unknown_durability_is_refused() -> None:
    with pytest.raises(InvalidError, match="'normal', 'write', 'full'"):
        Database.open(":memory:", durability="none")


def test_reading_a_new_hold_in_memory_can_t_be_meant() -> None:
    with pytest.raises(InvalidError, match="readonly"):
        Database.open(":memory:", readonly=True)


# -- places that can't be written ---------------------------------------------------------------------------


def as_nobody(tmp_path: Path, look: Callable[[], object]) -> None:
    """Run `look` as a user whom permissions bind; in a child, because there is no way back."""
    for place in (tmp_path, *tmp_path.parents):
        if os.access(place, os.W_OK) and place.owner() != "nobody" and str(place) not in ("/", "/tmp"):
            os.chmod(place, place.stat().st_mode | 0o011)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if os.geteuid() == 0:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            look()
            status = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.fixture
def shut(tmp_path: Path) -> Iterator[Path]:
    """A hold in a directory that can't be written."""
    place = tmp_path / "shut"
    place.mkdir()
    a_hold(place / "x.hold")
    (place / "x.hold-seq").unlink()
    os.chmod(place, 0o555)
    yield place
    os.chmod(place, 0o755)


def test_a_read_only_file_is_refused_for_writing_and_opens_for_reading(tmp_path: Path) -> None:
    path = tmp_path / "x.hold"
    a_hold(path)
    os.chmod(path, 0o444)

    def look() -> None:
        with pytest.raises(ReadOnlyError, match="open it with readonly=True"):
            Database.open(str(path))
        assert Database.open(str(path), readonly=True).value("SELECT count(*) FROM meta") == 1000

    as_nobody(tmp_path, look)


def test_a_hold_in_a_read_only_directory_is_refused_for_writing_and_opens_for_reading(
    tmp_path: Path, shut: Path
) -> None:
    os.chmod(shut / "x.hold", 0o666)

    def look() -> None:
        with pytest.raises(ReadOnlyError, match="directory .* can't be written"):
            Database.open(str(shut / "x.hold"))
        database = Database.open(str(shut / "x.hold"), readonly=True)
        assert database.value("SELECT count(*) FROM meta") == 1000
        with pytest.raises(ReadOnlyError):
            database.run("DELETE FROM meta")
        database.backup(f"/tmp/{os.getpid()}.backup")
        os.unlink(f"/tmp/{os.getpid()}.backup")
        database.close()

    as_nobody(tmp_path, look)


def test_a_new_hold_in_a_read_only_directory_is_refused(tmp_path: Path, shut: Path) -> None:
    def look() -> None:
        with pytest.raises(ReadOnlyError, match="make it writable$"):
            Database.open(str(shut / "new.hold"))

    as_nobody(tmp_path, look)


def test_a_read_only_directory_with_a_log_says_that_it_can_t_be_read(tmp_path: Path) -> None:
    place = tmp_path / "shut"
    place.mkdir()
    path = place / "x.hold"
    pid = os.fork()
    if pid == 0:  # leaves a log behind
        database = Database.open(str(path))
        database.run("INSERT INTO meta VALUES ('a', 1)")
        os._exit(0)
    os.waitpid(pid, 0)
    (place / "x.hold-shm").unlink()
    os.chmod(place, 0o555)

    def look() -> None:
        with pytest.raises((UnavailableError, ReadOnlyError), match="x.hold"):
            Database.open(str(path), readonly=True)

    try:
        as_nobody(tmp_path, look)
    finally:
        os.chmod(place, 0o755)


def test_a_file_without_permission_to_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.hold"
    a_hold(path)
    os.chmod(path, 0)

    def look() -> None:
        with pytest.raises(UnavailableError, match="permissions"):
            Database.open(str(path))

    as_nobody(tmp_path, look)


def test_reading_makes_nothing_beside_the_file_but_what_sqlite_needs(tmp_path: Path) -> None:
    path = tmp_path / "x.hold"
    a_hold(path)
    (tmp_path / "x.hold-seq").unlink()
    database = Database.open(str(path), readonly=True)
    assert database.value("SELECT count(*) FROM meta") == 1000
    assert not (tmp_path / "x.hold-seq").exists()
    assert database.counter.words[0] == (1 << 64) - 1, (
        "a reader that can't see the counter must never seem fresh"
    )


# -- a full disk --------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small disk can't be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_named_and_what_was_committed_stays(small_disk: Path) -> None:
    database = Database.open(str(small_disk / "x.hold"))
    database.run("INSERT INTO meta VALUES ('kept', 1)")
    with pytest.raises(UnavailableError, match="disk is full.* free space and sync again"):
        database.begin()
        for number in range(1000):
            database.run("INSERT INTO meta VALUES (?, ?)", (f"big {number}", "x" * 10_000))
        database.commit()
    database.rollback()
    assert database.rows("SELECT key FROM meta") == [("kept",)]
    with pytest.raises(UnavailableError, match="disk is full"):
        database.run("INSERT INTO meta VALUES ('too big', zeroblob(2000000))")
    database.run("INSERT INTO meta VALUES ('small', 1)")
    assert database.integrity() == []
    database.close(last=True)


def test_a_full_disk_at_opening_is_named(small_disk: Path) -> None:
    try:
        (small_disk / "filler").write_bytes(bytes(2 << 20))
    except OSError:
        pass
    with pytest.raises(UnavailableError):
        Database.open(str(small_disk / "x.hold"))


def test_a_backup_to_a_full_disk_is_refused_and_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "x.hold"))
    database.run("INSERT INTO meta VALUES ('big', zeroblob(3000000))")
    with pytest.raises(UnavailableError, match="disk is full"):
        database.backup(str(small_disk / "copy.hold"))
    assert list(small_disk.iterdir()) == []


def test_a_file_that_may_not_grow_is_as_a_full_disk() -> None:
    database = Database.open(":memory:")
    database.run("PRAGMA max_page_count = 30")
    with pytest.raises(UnavailableError, match="disk is full"):
        database.run("INSERT INTO meta VALUES ('big', zeroblob(1000000))")
    assert database.value("SELECT count(*) FROM meta") == 0


# -- what SQLite refuses later ------------------------------------------------------------------------------


def test_a_damaged_page_is_a_corrupt_error_that_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x.hold"
    a_hold(path)
    with open(path, "r+b") as file:
        file.seek(4096 * 12)
        file.write(b"\xa5" * 4096 * 15)
    database = Database.open(str(path))
    assert database.integrity()
    with pytest.raises(CorruptError, match="holdfast check"):
        database.rows("SELECT * FROM meta")


def test_another_program_s_lock_is_a_busy_error_in_the_time_that_was_given(tmp_path: Path) -> None:
    path = str(tmp_path / "x.hold")
    database = Database.open(path, wait_seconds=0.2)
    shell = apsw.Connection(path)  # as the sqlite3 shell would: past the gate
    shell.execute("BEGIN IMMEDIATE").fetchall()
    with pytest.raises(BusyError, match=r"x\.hold.* locked by another program for 0\.2 s"):
        database.begin()
    shell.execute("ROLLBACK").fetchall()
    database.begin()
    database.rollback()


def test_a_closed_database_says_so(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "x.hold"))
    database.close()
    database.close()
    for use in (
        lambda: database.value("SELECT 1"),
        lambda: database.begin(),
        lambda: database.many("SELECT ?", [(1,)]),
    ):
        with pytest.raises(ClosedError, match="open it again"):
            use()
    with pytest.raises(ClosedError):
        database.gate.acquire(1)
    with pytest.raises(ClosedError):
        database.backup(str(tmp_path / "copy"))


def test_a_second_row_of_one_key_is_a_conflict() -> None:
    database = Database.open(":memory:")
    database.run("INSERT INTO meta VALUES ('a', 1)")
    with pytest.raises(ConflictError):
        database.run("INSERT INTO meta VALUES ('a', 2)")


def test_a_value_past_sqlite_s_limit_is_invalid() -> None:
    database = Database.open(":memory:")
    with pytest.raises(InvalidError, match="1 GB"):
        database.run("INSERT INTO meta VALUES ('a', zeroblob(1100000000))")


def test_an_open_file_is_never_read_past_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "x.hold")
    first = Database.open(path)
    monkeypatch.setattr(
        recognise, "refuse_strangers", lambda *_, **__: pytest.fail("closing it would drop our locks")
    )
    second = Database.open(path)
    first.close()
    third = Database.open(path)
    second.close()
    third.close()
    monkeypatch.undo()
    assert not opening.files.has((os.stat(path).st_dev, os.stat(path).st_ino))


def test_threads_that_open_one_file_at_once_all_get_it(tmp_path: Path) -> None:
    path = str(tmp_path / "x.hold")
    opened: list[Database] = []
    threads = [threading.Thread(target=lambda: opened.append(Database.open(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [database.value("SELECT count(*) FROM entry") for database in opened] == [0] * 8
