"""What one finished run does inside: measured on images of its data, and drawn."""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.core.tree import Tree, merge
from jax_prompt.data.open import Split
from jax_prompt.data.transforms import centre
from jax_prompt.evals.classify import padded_batches
from jax_prompt.evals.diagnostics import (
    cka_between_layers,
    joint_distribution,
    normalised_mutual_information,
)
from jax_prompt.evals.recorder import find_parts, record, solve_residuals
from jax_prompt.report.inside import (
    draw_attention,
    draw_cka,
    draw_gates,
    draw_residuals,
)
from jax_prompt.runs.inputs import load_split
from jax_prompt.runs.kept import open_evaluated
from jax_prompt.runs.restore import Restored, restore
from jax_prompt.train.log import write_json
from jax_prompt.train.snapshots import find_snapshots, load_snapshot
from jax_prompt.tuners.gated import GatedVPT

_BATCH = 8  # images recorded at once: the tokens of all layers are kept


@dataclass(frozen=True)
class Options:
    """What is looked at.

    Attributes:
      split: where the images come from.
      num_images: how many, spread evenly over the split.
      num_shown: how many of them are drawn with attention over them.
      layers: whose attention is drawn, from 0; (): four, spread evenly.
      num_steps: of a solve.
    """

    split: str = 'val'
    num_images: int = 32
    num_shown: int = 4
    layers: tuple[int, ...] = ()
    num_steps: int = 30


def pick_images(run: Restored, options: Options) -> np.ndarray:
    """Reads images of a split of the run's data, [n, S, S, 3] uint8.

    Raises:
      ValueError: no such split.
    """
    whole, _ = open_evaluated(run.config, run.kept, run.result, options.split, '')
    count = min(options.num_images, len(whole))
    index = np.linspace(0, len(whole) - 1, count).round().astype(int)
    part = Split(
        whole.name,
        whole.labels[index],
        lambda i: whole.read(int(index[i])),
        lambda i: whole.where(int(index[i])),
    )
    in_memory = replace(run.config, input=replace(run.config.input, budget_mb=1e12))
    images = load_split(in_memory, part, run.program.image_size).data
    assert isinstance(images, np.ndarray)
    return images


def measure(run: Restored, params: Tree, images: np.ndarray) -> dict[str, np.ndarray]:
    """Measures tokens and attention of one set of weights, means over the images.

    Returns:
      With prompts 'nmi' and 'nmi_centred' [L] and 'cka' [L, L]; 'maps' [L, n, C + P, N], the share
      of each patch in the attention of class token, registers and prompts, not a mean, and
      'to_prompts' [L, C + P], the share of all prompts in it.
    """
    parts: dict[str, list[np.ndarray]] = defaultdict(list)
    done = 0
    for batch in padded_batches(images, len(images), min(_BATCH, len(images))):
        seen = record(run.program.classifier, params, run.program.view(jnp.asarray(batch)))
        real = slice(0, len(images) - done)  # the last batch is padded
        done += len(batch)
        prompts, patches = seen.prompts[:, real], seen.patches[:, real]
        parts['maps'].append(seen.onto_patches[:, real])
        parts['to_prompts'].append(seen.onto_prompts[:, real])
        if prompts.shape[2]:
            for name, centred in (('nmi', False), ('nmi_centred', True)):
                joint = joint_distribution(prompts, patches, centred=centred)  # [L, B, P, N]
                parts[name].append(normalised_mutual_information(joint))
            cka = cka_between_layers(prompts, patches)
            parts['cka'].append(np.repeat(cka[:, None], prompts.shape[1], axis=1))  # [L, B, L]
    joined = {name: np.concatenate(part, axis=1) for name, part in parts.items()}
    means = {name: part.mean(axis=1) for name, part in joined.items()}
    return means | {'maps': joined['maps']}


def gates_of(run: Restored, params: Tree) -> np.ndarray | None:
    """Returns the gates between blocks, [L - 1] in (0, 1), or None without gated VPT."""
    tuner, own = run.program.classifier.tuner, params.get('tuner', {})
    for _, part in find_parts(tuner, own, GatedVPT):
        return np.asarray(jax.nn.sigmoid(part['shared']['gates']))
    return None


def diagnose(workdir: Path, name: str, out: Path, options: Options) -> dict[str, Any]:
    """Measures and draws one run, all but nmi.png. In pictures of several runs it has this name.

    Returns:
      The content of diagnostics.json.

    Raises:
      ValueError, FileNotFoundError: no finished run, its weights or data changed, or no such split
        or layer.
    """
    run = restore(workdir)
    method, spec = run.config.method, run.program.classifier.spec
    spread = np.unique(np.linspace(0, spec.num_layers - 1, 4).round().astype(int)).tolist()
    layers = options.layers or tuple(spread)
    if not all(0 <= layer < spec.num_layers for layer in layers):
        raise ValueError(f'layers {layers}; allowed: 0 to {spec.num_layers - 1}')
    images = pick_images(run, options)
    snapshots = find_snapshots(workdir / run.result['checkpoint'])
    absent: dict[str, str] = {}
    if not snapshots:
        absent['epochs'] = (
            'no snapshots, so only the last epoch is shown; train with '
            '--config.engine.snapshot_every=1'
        )
    weights = [load_snapshot(path, run.trainable) for path in snapshots.values()]
    params = [merge(tree, run.frozen) for tree in weights or [run.trainable]]
    seen = [measure(run, one, images) for one in params]
    numbers: dict[str, Any] = {
        'run': name,
        'method': method,
        'backbone': run.config.backbone,
        'split': options.split,
        'num_images': len(images),
        'epochs': list(snapshots) or [run.config.epochs],
    }
    out.mkdir(parents=True, exist_ok=True)
    numbers |= _prompts(seen, method, absent, out)
    numbers['attention'] = _attention(run, seen[-1], images, layers, options, absent, out)
    numbers |= _residuals(run, params[-1], images[: options.num_shown], options, absent, out)
    gates = [gate for one in params if (gate := gates_of(run, one)) is not None]
    if gates:
        numbers['gates'] = np.stack(gates).tolist()
        draw_gates(numbers['epochs'], np.stack(gates), out / 'gates.png')
    else:
        absent['gates'] = f'{method} has no gates on its prompts; gated_vpt has'
    numbers['absent'] = absent
    write_json(out / 'diagnostics.json', numbers)
    return numbers


def _prompts(seen: list[dict], method: str, absent: dict[str, str], out: Path) -> dict[str, Any]:
    if 'nmi' not in seen[-1]:
        absent['nmi'] = absent['cka'] = f'{method} has no prompts among its tokens'
        return {}
    draw_cka(seen[-1]['cka'], method, out / 'cka.png')
    nmi = {name: [one[name].tolist() for one in seen] for name in ('nmi', 'nmi_centred')}
    return {**nmi, 'cka': seen[-1]['cka'].tolist()}


def _attention(
    run: Restored,
    seen: dict[str, np.ndarray],
    images: np.ndarray,
    layers: tuple[int, ...],
    options: Options,
    absent: dict[str, str],
    out: Path,
) -> dict[str, Any]:
    """Draws attention maps; returns the shares of attention that go to patches and prompts."""
    method, config = run.config.method, run.program.classifier.backbone.config
    maps, to_prompts = seen['maps'], seen['to_prompts']  # [L, n, C + P, N], [L, C + P]
    view = centre(jnp.asarray(images[: options.num_shown]), run.program.image_size)
    shown = np.clip(np.asarray(view), 0.0, 1.0)  # bicubic resizing may leave the range
    chosen = list(layers)
    places = {
        'class': (slice(0, int(config.class_token)), f'{run.config.backbone} has no class token'),
        'prompts': (slice(config.num_lead, None), f'{method} has no prompts among its tokens'),
    }
    shares: dict[str, Any] = {}
    for name, (rows, reason) in places.items():
        who = maps[:, :, rows]
        if not who.shape[2]:
            absent[f'attention_{name}'] = reason
            continue
        mean = who[chosen, : len(shown)].mean(axis=2)  # [chosen, shown, N]
        grids = mean.reshape(*mean.shape[:2], config.grid, config.grid)
        draw_attention(shown, grids, chosen, name, method, out / f'attention_{name}.png')
        shares[name] = {
            'to_patches': who.sum(axis=-1).mean(axis=(1, 2)).tolist(),
            'to_prompts': to_prompts[:, rows].mean(axis=1).tolist(),
        }
    return shares


def _residuals(
    run: Restored,
    params: Tree,
    images: np.ndarray,
    options: Options,
    absent: dict[str, str],
    out: Path,
) -> dict[str, Any]:
    view = run.program.view(jnp.asarray(images))
    residuals = solve_residuals(run.program.classifier, params, view, options.num_steps)
    if not residuals:
        absent['residuals'] = f'{run.config.method} solves no equilibrium; lion does'
        return {}
    draw_residuals(residuals, run.config.method, out / 'residuals.png')
    # A step without one finite value is infinite, which JSON has not.
    means = {
        name: [float(m) if np.isfinite(m) else None for m in part.mean(axis=1)]
        for name, part in residuals.items()
    }
    return {'residuals': means}
