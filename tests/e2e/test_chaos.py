"""The chaos run's short form; `uv run poe chaos` is the long one."""

import pytest

from tests.chaos.run import chaos


@pytest.mark.apache_kafka
@pytest.mark.timeout(300)
async def test_nothing_is_lost_while_replicas_broker_and_aws_fail():
    report = await chaos(seed=3, events=4000, pause_s=1.0, hangs=False)
    assert report.not_met == [], report
    assert report.is_right, f"{report}\n{list(report.wrong.items())[:5]}"
