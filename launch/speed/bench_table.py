"""The table that `speed.py step` and `forward` print: each side, and its ratio to each rival."""

import statistics
from collections.abc import Mapping
from typing import Any

RIVALS = ('torch', 'torch_compile')


def spreads(turns: Mapping[str, list[dict]]) -> dict[str, float]:
    """Returns how well each ratio to a rival is known, by 'SIDE : RIVAL'.

    It is the standard error of the median of the turns' ratios, divided by the median; turns that
    lie beside each other met the same load.
    """
    found = {}
    for rival in [n for n in turns if n in RIVALS]:
        for name in [n for n in turns if n not in RIVALS]:
            pairs = zip(turns[rival], turns[name], strict=True)
            ratios = [theirs['seconds'] / mine['seconds'] for theirs, mine in pairs]
            deviation = statistics.stdev(ratios) if len(ratios) > 1 else float('inf')
            error = 1.2533 * deviation / len(ratios) ** 0.5  # of a median of normal draws
            found[f'{name} : {rival}'] = error / statistics.median(ratios)
    return found


def summary(first: Mapping[str, Any], turns: list[dict], batch: int) -> dict[str, Any]:
    """Summarises a side's turns."""
    times, last = [turn['seconds'] for turn in turns], dict(turns[-1])
    del last['seconds']
    median = statistics.median(times)
    return {
        'seconds_per_step': median,
        'seconds_per_step_all': times,
        'images_per_second': batch / median,
        'above_start_mb': last['step_peak_mb'] - first['before_mb'],
        **first,
        **last,
    }


def show_step(result: Mapping[str, Any]) -> None:
    """Prints the sides and their ratios to each rival."""
    sides = result['sides']
    form = '{:14s} {:>9s} {:>9s} {:>8s} {:>10s} {:>12s} {:>12s}'
    print(form.format('side', 's/step', 'images/s', '1st s', 'peak MB', 'above start', 'device MB'))
    for name, side in sides.items():
        cells = [f'{side["seconds_per_step"]:.4f}', f'{side["images_per_second"]:.2f}']
        cells += [f'{side["first_step_seconds"]:.1f}', f'{side["peak_mb"]:.0f}']
        cells += [f'{side["above_start_mb"]:.0f}', f'{side.get("device_peak_mb", 0):.0f}']
        print(form.format(name, *cells))
    rate = result['rate']
    for name, side in sides.items():
        if work := side.get('work'):
            speed = work / side['seconds_per_step'] / 1e9
            print(
                f'{name}   {work / 1e9:.0f} GFLOP of products at {speed:.0f} GFLOP/s: '
                f'{speed / rate["gflops"]:.0%} of the rate of one of side {rate["size"]}'
            )
    key = (
        'device_peak_mb' if all('device_peak_mb' in s for s in sides.values()) else 'above_start_mb'
    )
    for rival in [n for n in sides if n in RIVALS]:
        for name in [n for n in sides if n not in RIVALS]:
            speed = sides[rival]['seconds_per_step'] / sides[name]['seconds_per_step']
            memory = sides[name][key] / max(sides[rival][key], 1e-9)
            peak = sides[name]['peak_mb'] / sides[rival]['peak_mb']
            spread = result['spreads'][f'{name} : {rival}']
            known = '' if spread < 0.05 else f' (known within {spread:.0%} only)'
            print(
                f'{name} : {rival}   speed {speed:.2f} x{known}   process {peak:.2f} x   '
                f'above start {memory:.2f} x'
            )
