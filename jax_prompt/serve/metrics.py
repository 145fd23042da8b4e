"""What a server counts, as Prometheus reads it (text format 0.0.4)."""

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence

import jax

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_LOWERED = '/jax/core/compile/jaxpr_to_mlir_module_duration'


class Histogram:
    """Counts of values up to each bound, their number and their sum."""

    def __init__(self, bounds: Sequence[float]):
        self._bounds, self._counts = bounds, [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Counts a value."""
        place = next((i for i, b in enumerate(self._bounds) if value <= b), len(self._bounds))
        self._counts[place] += 1
        self._sum += value

    def lines(self, name: str) -> list[str]:
        """Returns the lines of the text format."""
        out, total = [], 0
        for bound, count in zip([*map(str, self._bounds), '+Inf'], self._counts, strict=True):
            total += count
            out.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*out, f'{name}_sum {self._sum:.6g}', f'{name}_count {total}']


class Metrics:
    """The counters of a server; safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[tuple[str, int], int] = defaultdict(int)
        self._counters: dict[str, int] = defaultdict(int)
        self._latency, self._batches = Histogram(_SECONDS), Histogram(_SIZES)
        self.gauges: dict[str, Callable[[], float]] = {}
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def close(self) -> None:
        """Stops to count compilations."""
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, duration: float, **_) -> None:
        if event == _LOWERED:
            self.count('compilations')

    def count(self, name: str, number: int = 1) -> None:
        """Adds to a counter."""
        with self._lock:
            self._counters[name] += number

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Counts a request."""
        with self._lock:
            self._requests[route, status] += 1
            if route == '/v1/predict' and status == 200:
                self._latency.add(seconds)

    def batch(self, size: int) -> None:
        """Counts a batch that was computed."""
        with self._lock:
            self._batches.add(size)
            self._counters['images'] += size

    def value(self, name: str) -> int:
        """Returns a counter."""
        with self._lock:
            return self._counters[name]

    def text(self) -> str:
        """Returns all of them; images a second are the rate of jax_prompt_images_total."""
        with self._lock:
            lines = ['# TYPE jax_prompt_requests_total counter']
            for (route, status), number in sorted(self._requests.items()):
                labels = f'route="{route}",status="{status}"'
                lines.append(f'jax_prompt_requests_total{{{labels}}} {number}')
            names = ('images', 'compilations', 'bad_images', 'bad_packs', 'expired')
            for name in sorted({*names, *self._counters}):
                lines.append(f'# TYPE jax_prompt_{name}_total counter')
                lines.append(f'jax_prompt_{name}_total {self._counters[name]}')
            for name, histogram in (
                ('jax_prompt_request_seconds', self._latency),
                ('jax_prompt_batch_images', self._batches),
            ):
                lines += [f'# TYPE {name} histogram', *histogram.lines(name)]
        for name, gauge in sorted(self.gauges.items()):
            lines += [f'# TYPE jax_prompt_{name} gauge', f'jax_prompt_{name} {gauge():g}']
        return '\n'.join(lines) + '\n'
