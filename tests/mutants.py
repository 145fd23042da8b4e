"""Small deliberate defects: does the suite catch each of them?

    python tests/mutants.py                      every defect, each in a scratch copy
    python tests/mutants.py attention-axis ...   some of them, by name
    python tests/mutants.py --tests FOLDER       by the tests of another checkout

A defect changes one place of the package: a sign, an axis, an off-by-one, a dropped mask, a missing
stop_gradient. The tests named beside it run in a copy of the repository until one fails. A defect
that passes them all has survived: a test is missing, or has lost its teeth. Run this after the
tests themselves were changed. It takes about 20 seconds a defect on one core.

`tests/test_mutants.py` checks that each place still exists, so that the list does not rot. A known
mutation tester was not taken: mutmut and cosmic-ray mutate everything, and a suite whose time is
compilation can't be run thousands of times.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import defects
import defects_of_packs
from defects import Mutant

ROOT = Path(__file__).resolve().parents[1]
MUTANTS = (*defects.MUTANTS, *defects_of_packs.MUTANTS)


def catch(mutant: Mutant, tests: Path, scratch: Path) -> str | None:
    """Runs a mutant's tests with its defect; returns the first test that fails, None for none.

    Args:
      mutant: the defect.
      tests: the folder of tests that shall catch it.
      scratch: a folder to work in; it is emptied.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    for name in ('jax_prompt', 'launch', 'configs'):
        shutil.copytree(ROOT / name, scratch / name, ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copytree(tests, scratch / 'tests', ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('pyproject.toml', 'README.md'):
        shutil.copy(ROOT / name, scratch)
    path = scratch / 'jax_prompt' / mutant.file
    text = path.read_text(encoding='utf-8')
    path.write_text(text.replace(mutant.right, mutant.wrong), encoding='utf-8')
    files = [f'tests/{name}' for name in mutant.tests if (scratch / 'tests' / name).exists()]
    command = [sys.executable, '-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider', *files]
    done = subprocess.run(
        command,
        cwd=scratch,
        env={**os.environ, 'PYTHONPATH': str(scratch)},
        capture_output=True,
        text=True,
        check=False,
    )
    failed = [line for line in done.stdout.splitlines() if line.startswith(('FAILED', 'ERROR'))]
    if done.returncode not in (0, 1, 2) or bool(failed) != bool(done.returncode):
        raise RuntimeError(f'{mutant.name}: pytest ended with {done.returncode}: {done.stdout}')
    return failed[0].split(' - ')[0] if failed else None


def main() -> int:
    """Runs the defects that were asked for; returns how many survived."""
    parser = argparse.ArgumentParser(description='Does the suite catch small defects?')
    parser.add_argument('names', nargs='*', help='defects to run; default: all')
    parser.add_argument('--tests', type=Path, default=ROOT / 'tests', help='folder of the tests')
    args = parser.parse_args()
    unknown = set(args.names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        parser.error(f'no defect {sorted(unknown)}; there are {[m.name for m in MUTANTS]}')
    chosen = [mutant for mutant in MUTANTS if not args.names or mutant.name in args.names]
    survived = 0
    with tempfile.TemporaryDirectory(prefix='jax_prompt_mutants_') as folder:
        for mutant in chosen:
            began = time.perf_counter()
            by = catch(mutant, args.tests.resolve(), Path(folder) / 'repository')
            survived += by is None
            seconds = time.perf_counter() - began
            print(f'{mutant.name:32} {seconds:5.0f} s  {by or "SURVIVED"}', flush=True)
    print(f'{len(chosen) - survived} of {len(chosen)} caught')
    return survived


if __name__ == '__main__':
    sys.exit(bool(main()))
