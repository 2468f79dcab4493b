"""`Prefer: wait=SECONDS` of RFC 7240: how long a caller would wait for an answer rather than ask again."""

import re
from collections.abc import Iterable
from typing import Final

_WAIT: Final = re.compile(r'\s*wait\s*=\s*"?(?P<seconds>[0-9]{1,9})"?\s*(;.*)?\Z', re.IGNORECASE)


def preferred_wait_s(headers: Iterable[str], *, longest_s: float) -> int | None:
    """The wait to honour (whole seconds, at most `longest_s`), or None where none is asked for or none is allowed.

    Of several the first counts; what is malformed is passed over, as the RFC wants it.
    """
    preferences = (preference for header in headers for preference in header.split(","))
    wait = next((match for preference in preferences if (match := _WAIT.match(preference))), None)
    return None if wait is None or longest_s < 1 else min(int(wait["seconds"]), int(longest_s))


def applied(wait_s: int | None) -> dict[str, str]:
    """The headers of an answer that was waited for, or would have been: it says which wait was honoured."""
    headers = {"Cache-Control": "no-store", "Vary": "Prefer"}
    return headers if wait_s is None else headers | {"Preference-Applied": f"wait={wait_s}"}
