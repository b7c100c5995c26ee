"""What the service counts, for Prometheus. Labels are templates of routes, statuses and versions only.

Belongs here: the measures and their names. Does not belong here: the page that shows them (`health.py`).
"""

from __future__ import annotations

from fastapi import Request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """The measures of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "medscore_http_requests",
            "Answers by route and status.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "medscore_http_request_seconds",
            "From the request's first byte until the answer's last.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.scores = Counter(
            "medscore_scores", "Scores given, by tier.", ("source", "tier"), registry=self.registry
        )
        self.model_version = Gauge(
            "medscore_model_version", "The version that scores.", ("alias",), registry=self.registry
        )
        self.swaps = Counter(
            "medscore_model_swaps", "Versions that were taken up.", ("alias",), registry=self.registry
        )
        self.refusals = Counter(
            "medscore_model_refusals", "Versions that were refused.", ("alias",), registry=self.registry
        )
        self.registry_up = Gauge(
            "medscore_model_registry_up", "Whether the registry answered last.", registry=self.registry
        )
        self.shadow_failures = Counter(
            "medscore_shadow_failures", "Scores that the challenger failed to give.", registry=self.registry
        )
        # Finding a labelled measure costs more than counting with it.
        self._of_route: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._of_tier: dict[tuple[str, str], Counter] = {}

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one answer."""
        key = (method, route, status)
        found = self._of_route.get(key)
        if found is None:
            found = self.requests.labels(method, route, str(status)), self.seconds.labels(route)
            self._of_route[key] = found
        found[0].inc()
        found[1].observe(seconds)

    def scored(self, source: str, tier: str) -> None:
        """Counts one score."""
        found = self._of_tier.get((source, tier))
        if found is None:
            found = self._of_tier[source, tier] = self.scores.labels(source, tier)
        found.inc()


def metrics_of(request: Request) -> Metrics:
    """The application's measures."""
    found: Metrics = request.app.state.metrics
    return found
