"""Sessions in Redis, where servers on several machines share them: any worker can take a session over."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from tokenturing.extras import require
from tokenturing.serve.store import FIRST, LONGEST_TICK, Change, Claim, Record, StoreError, pack, unpack_record

Result = TypeVar("Result")

PREFIX = "tokenturing:"
TIMEOUT_SECONDS = 2.0
"""for one answer of Redis"""
LATER = "send the same again"
AT_START = "start one there, or mend the address, its user and password"

CLAIM = """
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
if redis.call('HGET', KEYS[1], 'worker') ~= ARGV[2] then
    redis.call('HSET', KEYS[1], 'worker', ARGV[2])
    redis.call('HINCRBY', KEYS[1], 'fence', 1)
end
redis.call('ZADD', KEYS[3], redis.call('HGET', KEYS[2], 'seconds') or '0', ARGV[1])
return redis.call('HMGET', KEYS[1], 'about', 'state', 'created', 'fence')
"""
PUT = """
local prefix, now, at, lost = ARGV[1], redis.call('HGET', KEYS[1], 'seconds') or '0', 6, {}
for _ = 1, tonumber(ARGV[2]) do
    local id, about, state = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    local session = prefix .. 's:' .. id
    at = at + 3
    if redis.call('EXISTS', session) == 1 then
        lost[#lost + 1] = id
    else
        redis.call('HSET', session, 'fence', ARGV[4], 'worker', ARGV[5], 'created', now, 'about', about, 'state', state)
        redis.call('ZADD', KEYS[3], 0, id)
        redis.call('ZADD', KEYS[2], now, id)
        redis.call('ZADD', KEYS[4], now, id)
    end
end
for _ = 1, tonumber(ARGV[3]) do
    local id, fence, about, state = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    local replies, marks = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
    local session = prefix .. 's:' .. id
    at = at + 6
    if redis.call('HGET', session, 'fence') == fence then
        redis.call('HSET', session, 'about', about, 'state', state)
        redis.call('ZADD', KEYS[2], now, id)
        for k = 0, replies + marks - 1 do
            local kind = k < replies and 'r:' or 'm:'
            redis.call('HSET', prefix .. kind .. id, ARGV[at + 2 * k], ARGV[at + 2 * k + 1])
        end
    else
        lost[#lost + 1] = id
    end
    at = at + 2 * (replies + marks)
end
return lost
"""
DELETE = """
local prefix, found = ARGV[1], 0
for k = 2, #ARGV do
    local id = ARGV[k]
    found = found + redis.call('DEL', prefix .. 's:' .. id)
    redis.call('DEL', prefix .. 'r:' .. id, prefix .. 'm:' .. id)
    for _, key in ipairs(KEYS) do redis.call('ZREM', key, id) end
end
return found
"""
TICK = """
local wall, before = tonumber(ARGV[1]), tonumber(redis.call('HGET', KEYS[1], 'wall') or '0')
local seconds = tonumber(redis.call('HGET', KEYS[1], 'seconds') or '0')
if before > 0 then seconds = seconds + math.min(math.max(wall - before, 0), tonumber(ARGV[2])) end
redis.call('HSET', KEYS[1], 'seconds', string.format('%.3f', seconds), 'wall', string.format('%.3f', wall))
return string.format('%.3f', seconds)
"""
AT_ONCE = 1000
"""sessions that one script deletes"""


class RedisStore:
    """A store in one Redis server (not a cluster); what a script wrote is on its disk where it has `appendfsync always`.

    Args:
        url: such as redis://127.0.0.1:6379/0.
        window: replies that are kept of each session.
    """

    def __init__(self, url: str, window: int):
        require("redis")
        from redis import Redis

        self.window = window
        self._opened = False
        try:
            self._redis: Any = Redis.from_url(url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS)
        except (ValueError, TypeError) as error:
            raise StoreError(f"it is no address of Redis ({error}): expected redis://HOST:PORT/NUMBER") from None
        self._scripts = {text: self._redis.register_script(text) for text in (CLAIM, PUT, DELETE, TICK)}
        self._call(self._redis.ping)
        self._opened = True

    def on_disk(self) -> bool | None:
        """Whether Redis has on its disk what it has acknowledged; None: it does not say."""
        try:
            found = self._call(lambda: self._redis.config_get("append*"))
        except StoreError:
            return None
        return (found.get("appendonly"), found.get("appendfsync")) == ("yes", "always")

    def get(self, session: str) -> Record | None:
        return _record(*self._call(lambda: self._redis.hmget(_key("s", session), "about", "state", "created")))

    def claim(self, session: str, worker: str) -> Claim | None:
        found = self._run(CLAIM, [_key("s", session), _key("clock"), _key("used")], [session, worker])
        record = _record(*found[:3]) if found else None
        return None if record is None else Claim(record, int(found[3]))

    def put(self, changes: Sequence[Change], new: Sequence[Record] = (), worker: str = "") -> list[str]:
        arguments: list[Any] = [PREFIX, len(new), len(changes), FIRST, worker]
        for record in new:
            arguments += [record.session, pack(msgspec.structs.replace(record, state=b"")), record.state]
        for change in changes:
            record = change.record
            about = pack(msgspec.structs.replace(record, state=b""))
            arguments += [record.session, change.fence, about, record.state, len(change.replies), len(change.marks)]
            for seq, reply in change.replies:
                arguments += [seq % self.window, seq.to_bytes(8, "big") + reply]
            for name, mark in change.marks:
                arguments += [name, mark]
        return [name.decode() for name in self._run(PUT, [_key(name) for name in ("clock", "used", "ids", "created")], arguments)]

    def reply(self, session: str, seq: int) -> bytes | None:
        # Not by its place alone, which depends on the window of the server that wrote it.
        kept = self._call(lambda: self._redis.hvals(_key("r", session)))
        return next((reply[8:] for reply in kept if int.from_bytes(reply[:8], "big") == seq), None)

    def mark(self, session: str, name: str) -> bytes | None:
        return self._call(lambda: self._redis.hget(_key("m", session), name))

    def marks(self, session: str) -> list[str]:
        return sorted(name.decode() for name in self._call(lambda: self._redis.hkeys(_key("m", session))))

    def delete(self, session: str) -> bool:
        return self._delete([session]) > 0

    def _delete(self, sessions: Sequence[str]) -> int:
        return self._run(DELETE, [_key("ids"), _key("used"), _key("created")], [PREFIX, *sessions])

    def expire(self, idle: float | None, total: float | None) -> list[str]:
        now = float(self._run(TICK, [_key("clock")], [time.time(), LONGEST_TICK]))
        found: list[str] = []
        for key, limit in (("used", idle), ("created", total)):
            if limit is not None:
                older = partial(self._redis.zrangebyscore, _key(key), "-inf", f"({now - limit}", 0, AT_ONCE)
                names = [name.decode() for name in self._call(older)]
                if names:
                    self._delete(names)
                found += names
        return found

    def page(self, after: str, limit: int) -> list[Record]:
        low = f"({after}" if after else "-"
        names = self._call(lambda: self._redis.zrangebylex(_key("ids"), low, "+", 0, limit))
        pipe = self._redis.pipeline(transaction=False)
        for name in names:
            pipe.hmget(_key("s", name.decode()), "about", "created")
        found = self._call(pipe.execute)
        records = (_record(about, b"", created) for about, created in found)
        return [record for record in records if record is not None]

    def count(self) -> int:
        return self._call(lambda: self._redis.zcard(_key("ids")))

    def now(self) -> float:
        return float(self._call(lambda: self._redis.hget(_key("clock"), "seconds")) or 0)

    def close(self) -> None:
        self._redis.close()

    def _run(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        return self._call(lambda: self._scripts[script](keys=keys, args=arguments))

    def _call(self, call: Callable[[], Result]) -> Result:
        from redis.exceptions import RedisError

        try:
            return call()
        except (RedisError, OSError) as error:
            advice = LATER if self._opened else AT_START
            raise StoreError(f"the sessions in Redis cannot be reached ({error}): {advice}") from error


def _key(*parts: str) -> str:
    return PREFIX + ":".join(parts)


def _record(about: bytes | None, state: bytes | None, created: bytes | None) -> Record | None:
    if about is None:
        return None
    return msgspec.structs.replace(unpack_record(about), state=state or b"", created=float(created or 0))
