"""Smaller inputs that show the same."""

from collections.abc import Callable


def minimised(value: bytes, shows: Callable[[bytes], bool]) -> bytes:
    """Take pieces away, large ones first, for as long as the rest shows the same. Quadratic: for inputs of some kilobytes."""
    size = max(1, len(value) // 2)
    while True:
        start, is_smaller = 0, False
        while start < len(value):
            shorter = value[:start] + value[start + size :]
            if shows(shorter):
                value, is_smaller = shorter, True
            else:
                start += size
        if size == 1 and not is_smaller:
            return value
        size = max(1, size // 2)
