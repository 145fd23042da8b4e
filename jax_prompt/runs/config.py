"""The run's configuration: from a ConfigDict, checked once, to frozen dataclasses.

Past `resolve` there is no ConfigDict and no default: each value is where its dataclass says. The
resolved configuration is saved with the run as `config.json` and is all that resuming, evaluating
and predicting need.
"""

import dataclasses
import difflib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jax_prompt.backbones.table import lookup
from jax_prompt.calibrate.spt import Calibration
from jax_prompt.core.devices import product_dtype
from jax_prompt.core.ranges import KINDS, at_least, check_values, seed
from jax_prompt.data.transforms import Augment
from jax_prompt.methods import METHODS, check_fits, get_method
from jax_prompt.runs.prune import Prune
from jax_prompt.search.sizing import Population
from jax_prompt.train.masked import Masked
from jax_prompt.train.optim import Hyper, Optim, check_warmup
from jax_prompt.train.options import Engine, Input, Model
from jax_prompt.train.processes import from_primary


@dataclass(frozen=True)
class RunConfig:
    """One run.

    Attributes:
      data: a named task such as 'vtab/dtd' or 'fewshot8/food101', a folder, a packed .npz, or
        'tfds:NAME' (docs/data.md).
      backbone: `arch` or `arch.tag` of the table.
      weights: a checkpoint file; 'auto': the published one, from the cache or fetched; '': what
        ships with the package (the embedded default).
      weights_format: how the file names its weights (docs/weights.md), where that can't be told;
        '': told from the file.
      method: a row of `methods.METHODS`.
      num_prompts: number of prompts P, for methods with prompts; a search with `search_num_prompts`
        ignores it.
      image_size: side of the images in pixels; 0: that of the backbone.
      lr: peak learning rate; a search ignores it and takes `search_lrs`.
      weight_decay: weight decay of the tuner and of trained backbone weights.
      head_weight_decay: weight decay of the head's kernel.
      epochs: number of passes over the training split.
      batch_size: number of images of a step, over all devices.
      drop_last: True leaves a short last batch out of each epoch, as SPT's code does.
      seed: seed of everything random.
      search: True chooses lr on the validation split, and weight decay and P if they have grids.
      search_lrs: learning rates that the search tries.
      search_weight_decays: weight decays that the search tries; each applies to the head's kernel
        too, as in VPT's protocol; (): `weight_decay` and `head_weight_decay` as they are.
      search_head_weight_decays: weight decays of the head's kernel that the search tries, where
        these have a grid of their own (SPT); (): as above.
      search_num_prompts: numbers of prompts that the search tries; (): `num_prompts`. A candidate
        with P prompts starts as a run with only that P would start.
      search_epochs: number of epochs of each candidate; 0: `epochs`.
      refit: True trains once more on train + val with the chosen values and tests that run; False
        tests the chosen candidate.
      train_on: without a search, train on 'train' or 'train+val'; the latter has no validation.
      train_prompts: False freezes the prompts after their initialisation (SPT, Table 4a).
      calibrate_data: data whose tokens make the prototypes; '': the task's data (SPT, Fig. 3b).
      tuner: options of the method (docs/methods.md).
      transform: options of the method's own training rule (LION's robust training).
      prune: how much is pruned between a first and a second training (E2VPT).
      masked: the decoder, in pretraining as a masked autoencoder.
      population: how the candidates of the search train.
    """

    data: str
    backbone: str
    method: str
    weights: str = ''
    weights_format: str = ''
    num_prompts: int = at_least(10, 1, 10_000)
    image_size: int = at_least(0, 0, 16_384)
    lr: float = at_least(1e-3)
    weight_decay: float = at_least(0.0)
    head_weight_decay: float = at_least(0.0)
    epochs: int = at_least(10, 1)
    batch_size: int = at_least(32, 1)
    drop_last: bool = False
    seed: int = seed()
    search: bool = True
    search_lrs: tuple[float, ...] = at_least(())
    search_weight_decays: tuple[float, ...] = at_least(())
    search_head_weight_decays: tuple[float, ...] = at_least(())
    search_num_prompts: tuple[int, ...] = at_least((), 0, 10_000)
    search_epochs: int = at_least(0)
    refit: bool = True
    train_on: str = 'train'
    train_prompts: bool = True
    calibrate_data: str = ''
    tuner: Mapping[str, Any] = field(default_factory=dict)
    transform: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration = field(default_factory=Calibration)
    prune: Prune = field(default_factory=Prune)
    masked: Masked = field(default_factory=Masked)
    population: Population = field(default_factory=Population)
    optim: Optim = field(default_factory=Optim)
    augment: Augment = field(default_factory=Augment)
    input: Input = field(default_factory=Input)
    model: Model = field(default_factory=Model)
    engine: Engine = field(default_factory=Engine)

    def __post_init__(self):
        if not self.data:
            raise ValueError(
                'data is empty; give a folder of class subfolders, a packed .npz, tfds:NAME, '
                "'digits' or 'shapes': --config.data=..."
            )
        check_values(self)
        network = lookup(self.backbone).config
        method = get_method(self.method)
        for part, make, options in (
            ('tuner', method.make_tuner, self.tuner_options),
            ('transform', method.make_transform, self.transform),
        ):
            try:
                make(**options)
            except (ValueError, TypeError) as error:
                raise ValueError(f'config key {part}: {error}') from error
        if self.image_size:
            network = replace(network, image_size=self.image_size)
        check_fits(method, method.make_tuner(**self.tuner_options), network.spec())
        if self.prune.active and 'kept' not in method.options():
            raise ValueError(
                f'prune is set, but method {self.method} has nothing to prune; allowed: e2vpt'
            )
        everything = self.method in ('full', 'retrain')
        share, clip = self.model.patch_drop_rate, self.optim.clip_norm
        drops = hasattr(network, 'patch_drop_rate')
        self.masked.check(drops, share, clip, everything)
        if self.search and self.search_epochs and not self.refit:
            raise ValueError(
                'refit=False tests the chosen candidate as it is, so search_epochs '
                f'({self.search_epochs}) must be 0: set refit=True, or epochs'
            )
        if self.search and not self.search_lrs:
            raise ValueError('search=True needs search_lrs; give a grid or set search=False and lr')
        if self.train_on not in ('train', 'train+val'):
            raise ValueError(f"train_on is {self.train_on!r}; allowed: 'train', 'train+val'")
        for epochs in {self.epochs, self.search_epochs if self.search else 0} - {0}:
            check_warmup(self.optim, epochs)
        self.population.check(self.search_epochs or self.epochs)
        for name in ('search_lrs', 'search_weight_decays', 'search_head_weight_decays'):
            grid = getattr(self, name)
            if len({f'{v:g}' for v in grid}) < len(grid):
                raise ValueError(f'{name} is {grid}; allowed: different values')
        self._check_lengths(method.has_prompts)

    def _check_lengths(self, has_prompts: bool) -> None:
        grid = self.search_num_prompts
        if grid and not has_prompts:
            fits = ', '.join(name for name, row in METHODS.items() if row.has_prompts)
            raise ValueError(
                f'search_num_prompts is {grid}, but method {self.method} has no prompts; leave it '
                f'empty, or take one of: {fits}'
            )
        if len(set(grid)) < len(grid) or min(grid, default=1) < 1:
            raise ValueError(f'search_num_prompts is {grid}; allowed: different values from 1')

    @property
    def hyper(self) -> Hyper:
        """Learning rate and weight decays of a run without a search."""
        return Hyper(self.lr, self.weight_decay, self.head_weight_decay)

    @property
    def candidates(self) -> dict[str, tuple[Hyper, int]]:
        """The candidates of the search by name, each with its P.

        Names are 'lr_0.01', with '_wd_0.001', '_hwd_0.5' and '_p_10' after it where these have a
        grid.
        """
        hypers = {f'lr_{lr:g}': self.hyper._replace(lr=lr) for lr in self.search_lrs}
        if self.search_weight_decays:
            grid = itertools.product(self.search_lrs, self.search_weight_decays)
            hypers = {f'lr_{lr:g}_wd_{wd:g}': Hyper(lr, wd, wd) for lr, wd in grid}
        if self.search_head_weight_decays:
            heads = itertools.product(hypers.items(), self.search_head_weight_decays)
            hypers = {
                f'{name}_hwd_{wd:g}': hyper._replace(head_weight_decay=wd)
                for (name, hyper), wd in heads
            }
        if not self.search_num_prompts:
            return {name: (hyper, self.num_prompts) for name, hyper in hypers.items()}
        pairs = itertools.product(hypers.items(), self.search_num_prompts)
        return {f'{name}_p_{count}': (hyper, count) for (name, hyper), count in pairs}

    @property
    def grids(self) -> dict[str, tuple[float, ...]]:
        """The grids of the search, by the names under which its candidates have their values."""
        decays = self.search_weight_decays
        return {
            'lr': self.search_lrs,
            'weight_decay': decays,
            'head_weight_decay': self.search_head_weight_decays or decays,
        }

    @property
    def lengths(self) -> tuple[int, ...]:
        """The grid of P where the run searches one, else `num_prompts` alone."""
        return (self.search_num_prompts if self.search else ()) or (self.num_prompts,)

    @property
    def tuner_options(self) -> dict[str, Any]:
        """The tuner's options, the number of prompts among them where it has prompts."""
        return get_method(self.method).with_prompts(self.tuner, self.num_prompts)

    def to_dict(self) -> dict[str, Any]:
        """Returns the configuration as JSON-able values."""
        options = {'tuner': dict(self.tuner), 'transform': dict(self.transform)}
        return dataclasses.asdict(self) | options


def resolve(config: Mapping[str, Any]) -> RunConfig:
    """Turns a ConfigDict or a dict (`config.json`) into a checked RunConfig.

    Raises:
      ValueError: an unknown key (the nearest valid one is named), a value of a wrong type, or one
        that its dataclass refuses.
    """
    out: RunConfig = _build(RunConfig, dict(config), '')
    if out.model.dtype != 'auto':
        return out
    dtype, reason = from_primary(product_dtype)
    print(f'model.dtype=auto: {dtype}, for {reason}', flush=True)
    return replace(out, model=replace(out.model, dtype=dtype))


def _build(kind: Any, values: Mapping[str, Any], prefix: str) -> Any:
    known = {f.name: f for f in dataclasses.fields(kind)}
    out: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f'; did you mean {prefix}{near[0]}?' if near else ''
            raise ValueError(f'unknown config key {prefix}{name}; allowed: {sorted(known)}{hint}')
        out[name] = _convert(known[name], value, f'{prefix}{name}')
    # Without a default both are MISSING, the same object.
    missing = [n for n, f in known.items() if n not in out and f.default is f.default_factory]
    if missing:
        raise ValueError(f'config lacks {missing}; give them with --config.{missing[0]}=...')
    return kind(**out)


def _convert(known: dataclasses.Field, value: Any, path: str) -> Any:
    kind: Any = known.type
    options = known.name in ('tuner', 'transform')
    if (options or dataclasses.is_dataclass(kind)) and not hasattr(value, 'items'):
        raise ValueError(f'config key {path} is {value!r}; it has keys of its own: {path}.KEY')
    if dataclasses.is_dataclass(kind):
        return _build(kind, dict(value), f'{path}.')
    if options:
        return {name: _plain(one) for name, one in dict(value).items()}
    if str(kind).startswith('tuple'):
        return _convert_numbers(kind.__args__[0], value, path)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ValueError(f'config key {path} is {value!r}; allowed: {KINDS[kind]}')
    return value


def _convert_numbers(kind: Any, value: Any, path: str) -> tuple[Any, ...]:
    good = isinstance(value, list | tuple) and all(
        isinstance(one, int | float) and not isinstance(one, bool) for one in value
    )
    if good and kind is int:
        good = all(isinstance(one, int) or (one.is_integer() and abs(one) < 2**53) for one in value)
    if not good:
        raise ValueError(
            f'config key {path} is {value!r}; allowed: {kind.__name__} numbers, as "(1, 2)"'
        )
    return tuple(map(kind, value))


def _plain(value: Any) -> Any:
    """Returns an option with mappings as dicts and sequences as tuples, as a saved config lost."""
    if hasattr(value, 'items'):
        return {name: _plain(one) for name, one in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value
