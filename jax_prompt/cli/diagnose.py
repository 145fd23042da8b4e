"""Draws what finished runs do inside: jax-prompt diagnose --workdir DIR --out FOLDER.

Writes diagnostics.json, and these pictures if the method has what they show:

    nmi.png                 mutual information of prompts and patches, by layer and epoch
    cka.png                 similarity of each layer's prompts with each layer's patches
    attention_class.png     where the class token looks, over the image
    attention_prompts.png   where the prompts look
    residuals.png           LION's solves, residual against step
    gates.png               the gates of gated VPT by epoch

See docs/diagnostics.md. Several runs share one nmi.png, and each has a folder for its other
pictures. To see all epochs, train with --config.engine.snapshot_every=1. Pictures need matplotlib:
pip install 'jax-prompt[quickstart]'.
"""

from collections.abc import Sequence
from os.path import commonpath
from pathlib import Path

from jax_prompt.cli.diagnosis import Options, diagnose
from jax_prompt.cli.parser import make_parser
from jax_prompt.door import user_path
from jax_prompt.report.inside import draw_nmi


def names_of(workdirs: Sequence[Path]) -> list[str]:
    """Returns a name for each run: its folder's, or the parts of its path that tell it apart.

    The runs of a benchmark all lie in folders called `run`.

    >>> names_of([Path('/a/vpt'), Path('/b/spt')])
    ['vpt', 'spt']
    >>> names_of([Path('/a/vpt/seed_0/run'), Path('/a/spt/seed_0/run')])
    ['vpt_seed_0_run', 'spt_seed_0_run']

    Raises:
      ValueError: a run is given twice.
    """
    names = [workdir.name for workdir in workdirs]
    if len(set(names)) == len(names):
        return names
    paths = [workdir.resolve() for workdir in workdirs]
    if len(set(paths)) < len(paths):
        raise ValueError('--workdir names a run twice; name each once')
    above = commonpath([path.parent for path in paths])
    return ['_'.join(path.relative_to(above).parts) for path in paths]


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the pictures and says what is absent, and why."""
    parser = make_parser('diagnose', __doc__)
    parser.add_argument('--workdir', type=user_path, nargs='+', required=True, help='finished runs')
    parser.add_argument('--out', type=user_path, required=True, help='folder of the pictures')
    parser.add_argument('--split', default='val', help='train, val or test')
    parser.add_argument('--images', type=int, default=32, help='images to average over')
    parser.add_argument('--shown', type=int, default=4, help='images drawn with attention')
    parser.add_argument('--layers', type=int, nargs='*', default=(), help='whose attention')
    parser.add_argument('--steps', type=int, default=30, help="steps of LION's solves")
    args = parser.parse_args(arguments)
    for name in ('images', 'shown', 'steps'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} is {getattr(args, name)}; at least 1')
    options = Options(args.split, args.images, args.shown, tuple(args.layers), args.steps)
    several = len(args.workdir) > 1
    found = []
    for workdir, name in zip(args.workdir, names_of(args.workdir), strict=True):
        numbers = diagnose(workdir, name, args.out / name if several else args.out, options)
        found.append(numbers)
        for what, reason in numbers['absent'].items():
            print(f'{name}: {what}: {reason}')
    prompted = [numbers for numbers in found if 'nmi' in numbers]
    if prompted:
        draw_nmi(prompted, args.out / 'nmi.png')
    print(f'pictures and diagnostics.json: {args.out}')
