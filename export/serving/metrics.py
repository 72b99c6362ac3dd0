"""The figures of the service, for Prometheus: https://prometheus.io/docs/concepts/metric_types/."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

PREFIX = "rapid_finetune"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    "Counters of one service, in a registry of its own."

    def __init__(self) -> None:
        disable_created_metrics()  # a time of birth beside each figure
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, file descriptors and processor time of this process
        self.model = Info(f"{PREFIX}_model", "The model and where it runs", registry=registry)
        self.requests = Counter(
            f"{PREFIX}_requests", "Answers by path and status", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            f"{PREFIX}_request_seconds",
            "Seconds from a request's headers to its answer, by path",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.photos = Counter(f"{PREFIX}_photos", "Photos by outcome", ["outcome"], registry=registry)
        # its sum over its count is the mean size
        self.batches = Histogram(f"{PREFIX}_batch_photos", "Photos in a batch", buckets=BATCHES, registry=registry)
        self.decoding = Counter(f"{PREFIX}_decode_seconds", "Seconds of threads that decode photos", registry=registry)
        self.computing = Counter(f"{PREFIX}_model_seconds", "Seconds of threads that run the model", registry=registry)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        "Add a figure that is read when the metrics are."
        Gauge(f"{PREFIX}_{name}", text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        "The metrics in Prometheus' text format."
        return generate_latest(self.registry)
