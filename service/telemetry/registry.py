"""Metrics of the registry, and of the cache in front of one that is elsewhere. Accounts and tenants are never labels."""

from collections.abc import Callable, Iterable
from typing import Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)  # from a database next door to the time limit


class RegistryMetrics:
    """The registry's observer."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._asked = Counter(
            "logwarden_registry_lookups",
            "Look-ups of tenants, by answer: hit (from memory), miss (the source was waited for), stale (the source fails, the last "
            "answer stays in force), refused (the source fails, and no answer is recent enough).",
            ["answer"],
            registry=registry,
        )
        self._fetched = Counter(
            "logwarden_registry_fetches",
            "Questions to the source, by result: ok, unavailable, wrong (its data were refused).",
            ["result"],
            registry=registry,
        )
        self._seconds = Histogram(
            "logwarden_registry_fetch_seconds", "Duration of those questions.", buckets=_SECONDS, registry=registry
        )

    def registry_asked(self, answer: Literal["hit", "miss", "stale", "refused"]) -> None:
        self._asked.labels(answer).inc()

    def registry_fetched(self, result: Literal["ok", "unavailable", "wrong"], *, seconds: float) -> None:
        self._fetched.labels(result).inc()
        self._seconds.observe(seconds)


class InForce(Protocol):
    """What is shown of every registry."""

    @property
    def loaded_at_ms(self) -> int:
        """When what it holds last was found changed, in ms since 1970."""

    @property
    def is_refused(self) -> bool:
        """Whether what it holds now is wrong, so that something older is in force, or nothing."""


class Cache(Protocol):
    """What is shown of the cache."""

    @property
    def stale_s(self) -> float:
        """The age (seconds) of the oldest answer that the source fails to renew; 0 where there is none."""

    @property
    def accounts(self) -> int:
        """Listed accounts in memory."""


class RegistryCollector(Collector):
    """Whether what is in force is what the registry holds, and of a registry that has a cache how old it may be."""

    def __init__(self, registry: Callable[[], InForce | None], cache: Callable[[], Cache | None]) -> None:
        self._registry = registry
        self._cache = cache

    def collect(self) -> Iterable[Metric]:
        if (registry := self._registry()) is not None:
            yield GaugeMetricFamily(
                "logwarden_registry_refused",
                "1 while what the registry holds is wrong and was refused, so that the rules of before stay in force; /v1/status says why.",
                registry.is_refused,
            )
            yield GaugeMetricFamily(
                "logwarden_registry_loaded_timestamp_seconds",
                "When the registry was last found changed and right, in seconds since 1970; for one elsewhere, found changed.",
                registry.loaded_at_ms / 1000,
            )
        if (cache := self._cache()) is None:
            return
        yield GaugeMetricFamily(
            "logwarden_registry_stale_seconds",
            "Age of the oldest answer that the registry fails to renew; 0 while it answers. Past the limit lanes wait.",
            cache.stale_s,
        )
        yield GaugeMetricFamily("logwarden_registry_accounts", "Accounts whose tenants are in memory.", cache.accounts)
