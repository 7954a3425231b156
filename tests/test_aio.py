"""The async face: what may wait is awaited, and a transaction belongs to its task."""

import asyncio

import pytest

from holdfast import ConflictError, aio


def test_a_transaction_is_whole_and_others_read_what_is_stored(tmp_path):
    async def main() -> None:
        async with await aio.open(tmp_path / "a.hold", shared=True) as hold:
            entries = hold.dict("d")
            entries["n"] = 1
            inside, go_on = asyncio.Event(), asyncio.Event()

            async def change() -> None:
                async with hold.transaction():
                    entries["n"] = 2
                    inside.set()
                    await go_on.wait()

            task = asyncio.create_task(change())
            await inside.wait()
            assert entries["n"] == 1
            with pytest.raises(ConflictError, match="another task"):
                entries["n"] = 3
            go_on.set()
            await task
            assert entries["n"] == 2

    asyncio.run(main())


def test_an_error_inside_undoes_everything(tmp_path):
    async def main() -> None:
        async with await aio.open(tmp_path / "a.hold") as hold:
            entries = hold.dict("d")
            entries["list"] = [1]
            held = entries["list"]
            with pytest.raises(ZeroDivisionError):
                async with hold.transaction():
                    held.append(2)
                    entries["new"] = 1 // 0
            assert held == [1] and entries.copy() == {"list": [1]}

    asyncio.run(main())


def test_two_tasks_transactions_follow_each_other(tmp_path):
    async def main() -> None:
        async with await aio.open(tmp_path / "a.hold", shared=True) as hold:
            entries = hold.dict("d")
            entries["n"] = 0

            async def add() -> None:
                async with hold.transaction():
                    now = entries["n"]
                    await asyncio.sleep(0.001)
                    entries["n"] = now + 1

            await asyncio.gather(*(add() for _ in range(8)))
            assert entries["n"] == 8

    asyncio.run(main())


def test_changes_can_be_awaited(tmp_path):
    async def main() -> None:
        async with await aio.open(tmp_path / "a.hold", shared=True) as hold:
            entries = hold.dict("d")

            async def first() -> object:
                async for change in hold.watch("d"):
                    return change.key, change.value
                return None

            waiting = asyncio.create_task(first())
            await asyncio.sleep(0.05)
            entries["k"] = [1]
            assert await asyncio.wait_for(waiting, 10) == ("k", [1])

    asyncio.run(main())
