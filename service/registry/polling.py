"""Learning of changes from a source that tells nobody: its version is read every few seconds, for a fraction of what answers cost."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from service.registry.source import Invalidate, SourceError

_log = structlog.get_logger(__name__)


class VersionPoll:
    """Reads a version on a timer and invalidates everything when it has changed. `version` is the last one read, None before."""

    def __init__(
        self, read: Callable[[], Awaitable[str | None]], *, source: str, interval_s: float, timeout_s: float
    ) -> None:
        """`read` gives None where the source has no version, which ends the poll."""
        self._read = read
        self._source = source
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._is_failing = False
        self.version: str | None = None

    async def run(self, invalidate: Invalidate) -> None:
        """Poll until cancelled, or until the source says that it has no version."""
        while True:
            try:
                async with asyncio.timeout(self._timeout_s):
                    version = await self._read()
            except (SourceError, TimeoutError) as e:
                self._failed(str(e) or f"no answer in {self._timeout_s:g} s")
            else:
                if version is None:
                    _log.warning(
                        "registry_has_no_version", source=self._source, effect="changes are seen after the ttl"
                    )
                    return
                self._is_failing = False
                if version != self.version:
                    self.version = version
                    invalidate(None)
                    _log.info("registry_changed", source=self._source, version=version)
            await asyncio.sleep(self._interval_s)

    def _failed(self, reason: str) -> None:
        if not self._is_failing:
            _log.warning("registry_version_unknown", source=self._source, reason=reason)
        self._is_failing = True
