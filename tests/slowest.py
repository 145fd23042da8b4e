"""Which files of tests take longest?

    JAX_PROMPT_TIMES=times.txt bash launch/test.sh
    python tests/slowest.py times.txt

Prints the sum and the twenty slowest files, in seconds of processor time, subprocesses included.
`_FIRST` in `tests/conftest.py` has them in this order.
"""

import sys
from collections import Counter
from pathlib import Path


def by_file(lines: list[str]) -> Counter[str]:
    """Returns the seconds of each file, of lines such as '1.25 tests/test_api.py::test_x[a b]'."""
    seconds: Counter[str] = Counter()
    for line in lines:
        number, name = line.split(' ', 1)
        seconds[name.split('::')[0].strip()] += float(number)  # type: ignore[assignment]
    return seconds


if __name__ == '__main__':
    found = by_file(Path(sys.argv[1]).read_text(encoding='utf-8').splitlines())
    print(f'{sum(found.values()):7.1f} all')
    for name, number in found.most_common(20):
        print(f'{number:7.1f} {name}')
