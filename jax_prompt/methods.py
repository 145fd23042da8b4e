"""The one table of methods, and their combinations.

A row is a `method.Method`. `a+b` combines rows, for example prompts and LoRA.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jax_prompt.core.spec import BackboneSpec
from jax_prompt.core.tuner import Tuner
from jax_prompt.method import Method, Transform, suggestion
from jax_prompt.tuners.adapter import Adapter
from jax_prompt.tuners.bias import Biases
from jax_prompt.tuners.compose import Compose
from jax_prompt.tuners.dvpt import DVPT
from jax_prompt.tuners.e2vpt import E2VPT
from jax_prompt.tuners.gated import GatedVPT
from jax_prompt.tuners.lion import LION
from jax_prompt.tuners.lora import LoRA
from jax_prompt.tuners.mlp import MLPHead
from jax_prompt.tuners.moment import MomentProbing
from jax_prompt.tuners.partial import Partial
from jax_prompt.tuners.pixel import BorderPrompt, ChannelPrompt
from jax_prompt.tuners.robust import RobustTraining
from jax_prompt.tuners.sidetune import SideTune
from jax_prompt.tuners.snf import SNF
from jax_prompt.tuners.ssf import SSF
from jax_prompt.tuners.vpt import VPT
from jax_prompt.tuners.whole import Whole

_ROWS = (
    Method('linear', 'the head alone, on frozen features'),
    Method(
        'full',
        'every weight of the backbone and the head',
        Whole,
        batch_statistics=True,
    ),
    Method(
        'retrain',
        'every weight, from random initialisation',
        Whole,
        pretrained=False,
        batch_statistics=True,
    ),
    Method(
        'vpt_shallow',
        'P prompts at the first block (Jia et al., eq. 4, 5)',
        VPT,
        {'deep': False},
    ),
    Method('vpt_deep', 'P prompts at every block (Jia et al., eq. 6, 7)', VPT, {'deep': True}),
    Method(
        'spt_shallow',
        'VPT-shallow that starts from token prototypes (SPT, eq. 11)',
        VPT,
        {'deep': False},
        calibrated=True,
    ),
    Method(
        'spt_deep',
        'VPT-deep that starts from token prototypes (SPT, eq. 13)',
        VPT,
        {'deep': True},
        calibrated=True,
    ),
    Method(
        'dvpt_shallow',
        'prompts that depend on the image, at the first block (DVPT, eq. 5, 7)',
        DVPT,
        {'deep': False},
    ),
    Method(
        'dvpt_deep',
        'the same, and static prompts at the further blocks (DVPT, eq. 7, 8)',
        DVPT,
        {'deep': True},
    ),
    Method(
        'dvpt_spt',
        'DVPT-deep that starts from token prototypes (SPT, eq. 13)',
        DVPT,
        {'deep': True},
        calibrated=True,
    ),
    Method(
        'gated_vpt',
        'VPT-shallow with gates between blocks and attention temperatures (Yoo et al.)',
        GatedVPT,
        {'deep': False},
    ),
    Method('e2vpt', 'VPT-deep with prompts among keys and values (E2VPT)', E2VPT, {'deep': True}),
    Method('vpt_pad', 'a learned border of P pixels around the image (Jia et al.)', BorderPrompt),
    Method(
        'vpt_channels', 'P learned input channels beside the colours (Jia et al.)', ChannelPrompt
    ),
    Method(
        'lion',
        'equilibrium blocks on the image and on the features (LION, eq. 1-6)',
        LION,
        transform=RobustTraining,
    ),
    Method('partial', 'the last k blocks and the final norm (option last)', Partial),
    Method('bias', 'the biases of the backbone (BitFit)', Biases),
    Method('mlp', 'a head of k layers on frozen features (option layers)', MLPHead),
    Method('sidetune', 'a small network beside the backbone (Side-Tuning)', SideTune),
    Method('snf', 'a normalising flow on each residual shortcut (SNF)', SNF),
    Method(
        'mp',
        'second moments of the last tokens beside the features (moment probing)',
        MomentProbing,
    ),
    Method('lora', 'low-rank updates of projections (Hu et al., arXiv:2106.09685, eq. 3)', LoRA),
    Method('ssf', 'a scale and a shift after each operation (Lian et al., arXiv:2210.08823)', SSF),
    Method('adapter', 'a bottleneck in each block (Houlsby et al., arXiv:1902.00751)', Adapter),
)

METHODS: Mapping[str, Method] = {row.name: row for row in _ROWS}


@dataclass(frozen=True)
class Combined(Method):
    """Several rows at once; options are those of each under its name.

    Attributes:
      rows: the methods, in the order in which their tuners act.
    """

    rows: tuple[Method, ...] = ()

    def options(self) -> dict[str, Any]:
        return {row.name: row.options() for row in self.rows}

    def settable(self) -> dict[str, Any]:
        return {row.name: row.settable() for row in self.rows}

    @property
    def has_prompts(self) -> bool:
        return any(row.has_prompts for row in self.rows)

    def with_prompts(self, options: Mapping[str, Any], num_prompts: int) -> dict[str, Any]:
        self._check(options, self.options(), 'part')
        return {r.name: r.with_prompts(options.get(r.name, {}), num_prompts) for r in self.rows}

    def make_tuner(self, **options: Any) -> Tuner:
        self._check(options, self.options(), 'part')
        made = [(row.name, row.make_tuner(**options.get(row.name, {}))) for row in self.rows]
        return Compose(tuple(made))

    def transform_options(self) -> dict[str, Any]:
        return {k: v for row in self.rows for k, v in row.transform_options().items()}

    def make_transform(self, **options: Any) -> Transform | None:
        self._check(options, self.transform_options(), 'transform option')
        wraps = [row for row in self.rows if row.transform]
        return wraps[0].make_transform(**options) if wraps else None


def _combine(name: str, rows: tuple[Method, ...]) -> Combined:
    # Beside a backbone that trains whole, an addition to the frozen one says nothing.
    whole = [row.name for row in rows if not row.pretrained or row.tuner is Whole]
    twice = len({row.name for row in rows}) < len(rows)
    if whole or twice or sum(row.transform is not None for row in rows) > 1:
        raise ValueError(
            f'method {name!r} can not be combined; allowed: different methods that leave '
            'weights of a pretrained backbone frozen, of which one at most wraps the optimizer'
        )
    return Combined(
        name,
        ' + '.join(row.summary for row in rows),
        calibrated=any(row.calibrated for row in rows),
        batch_statistics=any(row.batch_statistics for row in rows),
        rows=rows,
    )


def get_method(name: str) -> Method:
    """Returns the method of that name, or the combination of those joined by '+'.

    Raises:
      ValueError: no such method (names the nearest), or methods that do not combine.
    """
    for part in name.split('+'):
        if part not in METHODS:
            raise ValueError(
                f'no method {part!r}; allowed: {sorted(METHODS)}' + suggestion(part, METHODS)
            )
    if '+' in name:
        return _combine(name, tuple(METHODS[part] for part in name.split('+')))
    return METHODS[name]


def check_fits(method: Method, tuner: Tuner, spec: BackboneSpec) -> None:
    """Checks that a backbone has what a method puts its prompts among.

    Raises:
      ValueError: prompts among tokens, and a backbone without attention; names what fits.
    """
    if tuner.facts(spec).prompt_length and not spec.has_tokens:
        fits = [n for n, row in METHODS.items() if not row.make_tuner().facts(spec).prompt_length]
        raise ValueError(
            f'method {method.name!r} puts prompts among tokens, and a {spec.family} has none; '
            f'allowed: {", ".join(fits)} (vpt_pad and vpt_channels are its prompts)'
        )
