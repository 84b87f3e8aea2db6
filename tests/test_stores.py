"""The laws of stores, on each of them: all or nothing, one writer at a time, and a clock that stands still with the servers."""

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokenturing.errors import OptionError
from tokenturing.serve.sqlite import SqliteStore
from tokenturing.serve.store import FIRST, Change, MarkBytes, Record, Store, StoreError, open_store, pack, unpack_mark

WINDOW = 4


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("redis")
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server: apt install redis-server")
    pytest.importorskip("redis", exc_type=ImportError)
    place = folder / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(place), "--dir", str(folder), "--appendonly", "yes", "--appendfsync", "always"]
    process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    for _ in range(200):
        if place.exists():
            break
        time.sleep(0.05)
    yield f"unix://{place}"
    process.kill()
    process.wait()


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'sessions.db'}"
    address = request.getfixturevalue("redis_url")
    from redis import Redis

    Redis.from_url(address).flushall()
    return address


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = open_store(url, WINDOW)
    yield opened
    opened.close()


def record(name: str = "one", seq: int = 0, state: bytes = b"\x00state\xff") -> Record:
    return Record(name, b"secret", "model", "print", "inputs", seq, seq, state, 0.0)


def create(store: Store, one: Record, worker: str = "a") -> int | None:
    return None if store.put([], [one], worker) else FIRST


def test_what_is_kept_comes_back(store: Store) -> None:
    assert create(store, record(), "a") == 1
    assert store.get("one") == record()
    assert store.get("two") is None
    assert create(store, record(state=b"other"), "b") is None
    assert store.get("one") == record()
    assert store.count() == 1


def test_a_change_is_whole(store: Store) -> None:
    fence = create(store, record(), "a") or 0
    mark = pack(MarkBytes(1, b"marked"))
    assert store.put([Change(record(seq=1, state=b"new"), ((1, b"reply"),), (("here", mark),), fence)]) == []
    assert store.get("one") == record(seq=1, state=b"new")
    assert store.reply("one", 1) == b"reply"
    assert store.marks("one") == ["here"]
    assert unpack_mark(store.mark("one", "here") or b"") == MarkBytes(1, b"marked")
    assert store.mark("one", "there") is None


def test_only_the_last_replies_are_kept(store: Store) -> None:
    fence = create(store, record(), "a") or 0
    for seq in range(1, 7):
        store.put([Change(record(seq=seq), ((seq, b"%d" % seq),), fence=fence)])
    assert [store.reply("one", seq) for seq in range(1, 8)] == [None, None, b"3", b"4", b"5", b"6", None]


def test_replies_are_found_by_a_server_with_another_window(url: str, store: Store) -> None:
    fence = create(store, record()) or 0
    for seq in range(1, 7):
        store.put([Change(record(seq=seq), ((seq, b"%d" % seq),), fence=fence)])
    other = open_store(url, WINDOW + 3)
    assert [other.reply("one", seq) for seq in range(3, 7)] == [b"3", b"4", b"5", b"6"]
    other.close()


def test_who_was_overtaken_writes_nothing(store: Store) -> None:
    first = create(store, record(), "a") or 0
    create(store, record("two"), "a")
    claim = store.claim("one", "b")
    assert claim is not None
    assert claim.fence > first
    lost = store.put(
        [Change(record(seq=1, state=b"late"), ((1, b"late"),), fence=first), Change(record("two", seq=1), fence=first)]
    )
    assert lost == ["one"]
    assert store.get("one") == record()
    assert store.reply("one", 1) is None
    assert store.get("two") == record("two", seq=1)
    assert store.put([Change(record(seq=1), fence=claim.fence)]) == []


def test_who_holds_it_already_keeps_its_fence(store: Store) -> None:
    fence = create(store, record(), "a")
    claim = store.claim("one", "a")
    assert claim is not None
    assert claim.fence == fence
    assert store.claim("none", "a") is None


def test_what_is_deleted_is_gone_with_its_parts(store: Store) -> None:
    fence = create(store, record(), "a") or 0
    store.put([Change(record(seq=1), ((1, b"reply"),), (("here", pack(MarkBytes(1, b""))),), fence)])
    assert store.delete("one")
    assert not store.delete("one")
    assert (store.get("one"), store.reply("one", 1), store.marks("one"), store.count()) == (None, None, [], 0)
    assert store.put([Change(record(seq=2), fence=fence)]) == ["one"]


def test_pages_are_by_id(store: Store) -> None:
    for name in ("c", "a", "b"):
        create(store, record(name), "w")
    assert [one.session for one in store.page("", 2)] == ["a", "b"]
    assert [one.session for one in store.page("b", 2)] == ["c"]
    assert store.page("", 1)[0].state == b""


def test_time_passes_only_while_servers_look(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a jump of the computer's clock nor a night without a server lets sessions expire."""
    wall = [1.7e9]
    monkeypatch.setattr(time, "time", lambda: wall[0])
    store.expire(None, None)
    create(store, record(), "a")
    for jump in (365 * 86_400.0, -2 * 365 * 86_400.0):
        wall[0] += jump
        assert store.expire(60.0, 60.0) == []
    for _ in range(20):
        wall[0] += 1
        assert store.expire(60.0, None) == []
    create(store, record("young"), "a")
    for _ in range(50):
        wall[0] += 1
        if gone := store.expire(60.0, None):
            break
    assert gone == ["one"]
    assert store.count() == 1
    for _ in range(30):
        wall[0] += 1
        store.expire(None, 60.0)
    assert store.count() == 0


def test_writers_side_by_side(url: str, store: Store) -> None:
    """Two processes' worth of stores on one place: claims are given to one at a time."""
    other = open_store(url, WINDOW)
    create(store, record(), "none")
    won = []

    def work(one: Store, worker: str) -> None:
        for _ in range(20):
            claim = one.claim("one", worker)
            assert claim is not None
            after = record(seq=claim.record.seq + 1)
            if not one.put([Change(after, fence=claim.fence)]):
                won.append(after.seq)

    threads = [threading.Thread(target=work, args=pair) for pair in ((store, "a"), (other, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    last = store.get("one")
    assert last is not None
    assert sorted(won) == list(range(1, last.seq + 1)), "a number was written twice, or one was lost"


def test_a_locked_file_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenturing.serve import sqlite

    monkeypatch.setattr(sqlite, "LOCK_SECONDS", 0.05)
    first, second = (SqliteStore(tmp_path / "s.db", WINDOW) for _ in range(2))
    fence = create(first, record(), "a") or 0
    with second._transaction(), pytest.raises(StoreError, match="another process holds it"):
        first.put([Change(record(seq=1), fence=fence)])
    assert first.get("one") == record()
    assert first.put([Change(record(seq=1), fence=fence)]) == []


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db", WINDOW)
    fence = create(store, record(), "a") or 0
    (pages,) = store._connection().execute("PRAGMA page_count").fetchone()
    store._connection().execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="no room left"):
        store.put([Change(record(seq=1, state=bytes(10**6)), ((1, b"reply"),), fence=fence)])
    assert store.get("one") == record()
    assert store.reply("one", 1) is None


@pytest.mark.parametrize(
    ("place", "match"),
    [
        ("files:x", "expected sqlite:PATH or redis"),
        ("sqlite:", "expected sqlite:PATH"),
        ("sqlite:{}/none/s.db", "there is no folder"),
        ("sqlite:{}/text", "no SQLite file"),
        ("unix://{}/nobody.sock", "cannot be reached"),
    ],
)
def test_places_that_are_none(place: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, but a text of some length" * 50)
    with pytest.raises((OptionError, StoreError), match=match):
        open_store(place.format(tmp_path), WINDOW)


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "s.db", WINDOW)._connection().execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="newer tokenturing"):
        SqliteStore(tmp_path / "s.db", WINDOW)


def test_redis_says_whether_it_keeps_its_word(redis_url: str) -> None:
    store = open_store(redis_url, WINDOW)
    assert store.on_disk()  # type: ignore[attr-defined]
    store._redis.config_set("appendfsync", "everysec")  # type: ignore[attr-defined]
    assert store.on_disk() is False  # type: ignore[attr-defined]
    store._redis.config_set("appendfsync", "always")  # type: ignore[attr-defined]


def test_damage_is_never_a_bug_of_ours(tmp_path: Path) -> None:
    """Noise over each page of the file in turn: it is refused with advice, at the start or when what is damaged is asked for."""
    store = SqliteStore(tmp_path / "s.db", WINDOW)
    names = [f"session-{number}" for number in range(40)]
    store.put([], [record(name, state=bytes(700)) for name in names], "a")
    for seq in range(1, 4):
        store.put([Change(record(name, seq, bytes(700)), ((seq, bytes(300)),), fence=FIRST) for name in names])
    store.close()
    whole, noise, found = (tmp_path / "s.db").read_bytes(), bytes(range(1, 256)) * 17, []

    def look(path: Path) -> None:
        again = SqliteStore(path, WINDOW)
        try:
            for name in names:
                again.get(name), again.reply(name, 3), again.marks(name)
            again.expire(None, 1e9)
            again.put([Change(record(names[0], 4), ((4, b"reply"),), fence=FIRST)], [record("new")])
            again.page("", 100)
            again.count(), again.now(), again.delete(names[1])
        finally:
            again.close()

    for page in range(len(whole) // 4096):
        path = tmp_path / f"{page}.db"
        path.write_bytes(whole[: page * 4096] + noise[:4096] + whole[(page + 1) * 4096 :])
        try:
            look(path)
        except StoreError as error:
            found.append(str(error))
    assert len(found) > 10
    assert all("damaged" in one or "no SQLite file" in one for one in found), found
    look(tmp_path / "s.db")
