"""What a call costs us, of what it costs through aiobotocore's default client."""

from statistics import median

from tests.benchmarks.client import calls_in_turns
from tests.benchmarks.endpoint import QuickAws
from tests.benchmarks.result import Result
from tests.benchmarks.stage import in_own_process


async def associate_cpu(is_quick: bool) -> list[Result]:
    """CPU time a call: `service.aws` over the default client, both 64 in flight against an endpoint that answers at once.

    CPU time, not time: it holds on a machine that has other things to do. Fair: same process, loop, endpoint and parameters; ours
    signs with the credentials of an assumed role, one of many, the default client with the only ones it has. They take turns every
    400 calls, and the value is the median of the rounds' ratios, so that what the machine does meanwhile meets both alike.
    """
    async with QuickAws.start() as aws:
        rounds = await in_own_process(calls_in_turns, aws.endpoint, 7 if is_quick else 41, 400)
    details = {
        "ours_cpu_us": median(ours.cpu_us for ours, _ in rounds),
        "default_cpu_us": median(default.cpu_us for _, default in rounds),
    }
    value = median(ours.cpu_us / default.cpu_us for ours, default in rounds)
    return [Result(name="associate-cpu", value=value, at_most=0.5, details=details)]
