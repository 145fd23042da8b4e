"""What the benchmarks say of the machine, and the memory of their own process."""

import os
import platform
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Returns what the figures depend on: processor, cores, system, Python."""
    model = platform.processor()
    if Path('/proc/cpuinfo').exists():
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        model = next((x.split(':')[1].strip() for x in lines if x.startswith('model name')), model)
    return {
        'processor': model,
        'cores': os.cpu_count(),
        'load_before': os.getloadavg()[0],
        'system': f'{platform.system()} {platform.release()}',
        'python': platform.python_version(),
    }


def resident(field: str) -> float:
    """Returns VmRSS (now) or VmHWM (peak) of this process in MB; the peak so far without /proc."""
    status = Path('/proc/self/status')
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith(field))
        return int(line.split()[1]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def reset_peak() -> None:
    """Lets VmHWM start again from what is resident now (Linux)."""
    if Path('/proc/self/clear_refs').exists():
        Path('/proc/self/clear_refs').write_text('5')
