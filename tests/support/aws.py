"""Fixtures for the sandbox AWS: one process a session, as new for every test that asks for it."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from service.sandbox.aws.sandbox import AwsSandbox


@pytest.fixture(scope="session")
def aws_process() -> Iterator[AwsSandbox]:
    with closing(AwsSandbox.launch()) as sandbox:
        yield sandbox


@pytest.fixture
async def aws(aws_process: AwsSandbox) -> AwsSandbox:
    """An AWS with nothing in it."""
    await aws_process.reset()
    return aws_process
