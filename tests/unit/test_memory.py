import gc
import platform
import subprocess
import sys

import pytest

from service.memory import leave_what_stays_to_itself

CODE = """
import resource
from service.memory import keep_freed_memory
if {is_kept}:
    keep_freed_memory()

def use_and_free():
    buffers = [b"x" * (8 * 1024 * 1024) for _ in range(4)]

use_and_free()
use_and_free()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use_and_free()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*, is_kept: bool) -> int:
    code = CODE.format(is_kept=is_kept)
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told")
def test_large_buffers_are_made_of_the_memory_of_those_before_them():
    assert page_faults(is_kept=True) * 10 < page_faults(is_kept=False)


def test_what_was_loaded_is_not_looked_at_by_the_garbage_collector_again():
    threshold = gc.get_threshold()
    try:
        leave_what_stays_to_itself()
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold()[0] > 700
    finally:
        gc.unfreeze()
        gc.set_threshold(*threshold)
