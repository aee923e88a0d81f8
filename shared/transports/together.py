"""Running coroutines that live and die together."""

import asyncio
from collections.abc import Coroutine


async def run_together(*coroutines: Coroutine[None, None, None]) -> None:
    """Run until one of them fails or all are cancelled; none is left running.

    Raises:
        Exception: whatever the first of them raised.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
