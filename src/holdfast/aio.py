"""The async face: what may wait is awaited (open, transaction, sync, close, changes); the structures are the same.

    hold = await holdfast.aio.open("crawl.hold", shared=True)
    pages = hold.dict("pages")                   # reading and writing are plain calls
    async with hold.transaction():
        pages["/"] = {"visits": 0}
    await hold.close()

Waiting happens in a worker thread, so the event loop never blocks on another process's lock.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from typing import Any

from holdfast import hold as blocking
from holdfast.journal.transaction import Transaction
from holdfast.journal.watch import Change
from holdfast.structures.dictionary import Dict
from holdfast.structures.tracker import Tracker


async def open(path: str | os.PathLike[str], **options: Any) -> "Hold":
    """As `holdfast.open`, without blocking the event loop."""
    return Hold(await asyncio.to_thread(blocking.open, path, **options))


class AsyncTransaction:
    """`async with hold.transaction():`. Other tasks see nothing of it before it is done."""

    def __init__(self, transaction: Transaction, turn: asyncio.Lock) -> None:
        self._transaction = transaction
        self._turn = turn

    async def __aenter__(self) -> Transaction:
        # One waits at a time: many would take all worker threads, and the one inside needs one to finish.
        async with self._turn:
            await asyncio.to_thread(self._transaction.start, threading.get_ident())
        self._transaction.enter_context()
        return self._transaction

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            await asyncio.to_thread(self._transaction.finish, kind is not None)
        finally:
            self._transaction.leave_context()


class Hold:
    """An open hold, for asyncio. `sync_hold` is the blocking handle on the same data."""

    def __init__(self, hold: blocking.Hold) -> None:
        self.sync_hold = hold
        self._turn = asyncio.Lock()

    @property
    def path(self) -> str:
        return self.sync_hold.path

    def dict(self, name: str, **options: Any) -> Dict:
        """As `holdfast.Hold.dict`."""
        return self.sync_hold.dict(name, **options)

    def tracker(self, name: str, **options: Any) -> Tracker:
        """As `holdfast.Hold.tracker`."""
        return self.sync_hold.tracker(name, **options)

    def transaction(self, wait_seconds: float | None = None) -> AsyncTransaction:
        """As `holdfast.Hold.transaction`; the lock is waited for without blocking the event loop."""
        return AsyncTransaction(self.sync_hold.transaction(wait_seconds), self._turn)

    async def watch(self, *names: str, since: int | None = None) -> AsyncIterator[Change]:
        """`async for change in hold.watch():` as `holdfast.Hold.watch`."""
        with self.sync_hold.watch(*names, since=since) as watcher:
            while not self.sync_hold.closed:
                change = watcher.poll() or await asyncio.to_thread(watcher.poll, 0.5)
                if change is not None:
                    yield change

    async def sync(self) -> None:
        """As `holdfast.Hold.sync`."""
        await asyncio.to_thread(self.sync_hold.sync)

    async def close(self) -> None:
        """As `holdfast.Hold.close`."""
        await asyncio.to_thread(self.sync_hold.close)

    async def __aenter__(self) -> "Hold":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
