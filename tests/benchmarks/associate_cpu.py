"""What a call costs us, of what it costs through aiobotocore's default client; and what it costs elsewhere, to compare with."""

from statistics import median

from tests.benchmarks.client import calls_in_turns
from tests.benchmarks.endpoint import QuickAws
from tests.benchmarks.result import Result
from tests.benchmarks.stage import in_own_process


async def associate_cpu(is_quick: bool) -> list[Result]:
    """CPU time a call: `service.aws` over the default client, both 64 in flight against an endpoint that answers at once.

    CPU time, not time: it holds on a machine that has other things to do. Fair: same process, loop, endpoint and parameters; ours
    signs with the credentials of an assumed role, one of many, the default client with the only ones it has. They take turns every
    400 calls, and the value is the median of the rounds' ratios, so that what the machine does meanwhile meets all alike.

    Beside it and over the same: aiohttp with botocore's signer and nothing around it, and boto3's default client in 64 threads.
    """
    async with QuickAws.start() as aws:
        rounds = await in_own_process(calls_in_turns, aws.endpoint, 7 if is_quick else 41, 400)
    cpu_us = {name: median(costs[name].cpu_us for costs in rounds) for name in rounds[0]}
    of_default = {
        name: median(costs[name].cpu_us / costs["default"].cpu_us for costs in rounds)
        for name in ("ours", "bare", "threads")
    }
    return [
        Result(
            name="associate-cpu",
            value=of_default["ours"],
            at_most=0.5,
            details={"ours_cpu_us": cpu_us["ours"], "default_cpu_us": cpu_us["default"]},
        ),
        Result(name="associate-cpu-bare-aiohttp", value=of_default["bare"], details={"cpu_us": cpu_us["bare"]}),
        Result(name="associate-cpu-boto3-threads", value=of_default["threads"], details={"cpu_us": cpu_us["threads"]}),
    ]
