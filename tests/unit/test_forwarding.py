import asyncio

import pytest

from service.core.forwarding import Forwarding
from tests.support.fakes import Deliveries
from tests.support.virtual_time import virtual_time


@virtual_time
async def test_a_forwarding_that_ends_as_cancelled_though_nobody_asked_for_it_is_a_bug_and_not_forgotten():
    async def forward() -> None:
        raise asyncio.CancelledError

    forwarding, deliveries = Forwarding(), Deliveries()
    forwarding.start(forward(), deliveries.next())
    with pytest.raises(RuntimeError, match="cancelled by nobody"):
        await asyncio.wait_for(forwarding.run(), 1)
    assert deliveries.open == {0}


@virtual_time
async def test_what_a_drain_cancels_is_no_bug():
    forwarding, deliveries = Forwarding(), Deliveries()
    forwarding.start(asyncio.sleep(100), deliveries.next())
    await forwarding.drain(1.0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(forwarding.run(), 1)
    assert deliveries.open == {0}
