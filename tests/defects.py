"""The deliberate defects that `tests/mutants.py` makes, one place of the package each."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """A defect.

    Attributes:
      name: what it is called here.
      file: the file, in `jax_prompt/`.
      right: the text as it is, once in the file.
      wrong: the text that replaces it.
      tests: files or folders of tests, in `tests/`, of which one has to fail.
    """

    name: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]


MUTANTS = (
    # core
    Mutant(
        'unstack-off-by-one',
        'core/tree.py',
        'lambda leaf, i=layer - start: leaf[i]',
        'lambda leaf, i=layer - start - 1: leaf[i]',
        ('core/test_tree.py',),
    ),
    Mutant(
        'statistics-counted',
        'core/tree.py',
        "if getattr(path[-1], 'key', '') not in STATISTICS]",
        ']',
        ('core/test_tree.py', 'tuners/test_resnet_methods.py'),
    ),
    # nn
    Mutant(
        'attention-axis',
        'nn/attention.py',
        'jnp.sum(dp * p, axis=-1, keepdims=True)',
        'jnp.sum(dp * p, axis=-2, keepdims=True)',
        ('nn/test_attention.py',),
    ),
    Mutant(
        'attention-mask-dropped',
        'nn/attention.py',
        'scores = scores + (bias if bias.ndim == 1 else bias[:, None, None])',
        'scores = scores',
        ('nn/test_attention.py', 'search/test_padding.py'),
    ),
    Mutant(
        'window-mask-dropped',
        'nn/windows.py',
        'jnp.where(together, 0.0, _APART)',
        'jnp.where(together, 0.0, 0.0)',
        ('nn/test_windows.py', 'weights/test_swin.py'),
    ),
    Mutant(
        'window-shift-sign',
        'nn/windows.py',
        'at = (np.arange(side) + shift) % side',
        'at = (np.arange(side) - shift) % side',
        ('nn/test_windows.py', 'backbones/test_swin.py'),
    ),
    Mutant(
        'batch-norm-biased-variance',
        'nn/batch_norm.py',
        'unbiased = spread * (count / max(count - 1, 1))',
        'unbiased = spread',
        ('nn/test_batch_norm.py',),
    ),
    # deq
    Mutant(
        'residual-sign',
        'deq/solver.py',
        'r = fz - z  # [B, n]',
        'r = z - fz  # [B, n]',
        ('deq/test_solver.py',),
    ),
    Mutant(
        'worst-point-kept',
        'deq/solver.py',
        '(r_norm < state.best_norm)',
        '(r_norm > state.best_norm)',
        ('deq/test_solver.py', 'deq/test_safeguards.py'),
    ),
    Mutant(
        'implicit-gradient-sign',
        'deq/fixed_point.py',
        'return g + pull(u.astype(fz.dtype))[1].astype(dtype)',
        'return g - pull(u.astype(fz.dtype))[1].astype(dtype)',
        ('deq/test_fixed_point.py',),
    ),
    Mutant(
        'truncated-one-term-more',
        'deq/fixed_point.py',
        'jax.lax.fori_loop(1, terms, step, damping * g)',
        'jax.lax.fori_loop(0, terms, step, damping * g)',
        ('deq/test_fixed_point.py',),
    ),
    Mutant(
        'penalty-without-stop-gradient',
        'deq/jacobian.py',
        'lambda z: f(args, z), jax.lax.stop_gradient(z)',
        'lambda z: f(args, z), z',
        ('deq/test_jacobian.py',),
    ),
    # convolutions
    Mutant(
        'depthwise-kernel-not-turned',
        'nn/convolution.py',
        'return depthwise(g, jnp.flip(kernel, (0, 1))), dkernel',
        'return depthwise(g, kernel), dkernel',
        ('nn/test_convolution.py', 'tuners/test_convnext_methods.py'),
    ),
    Mutant(
        'wide-kernel-gradient-not-turned',
        'nn/convolution.py',
        'return jnp.flip(taps.transpose(1, 2, 0, 3), (0, 1))',
        'return taps.transpose(1, 2, 0, 3)',
        ('nn/test_convolution.py',),
    ),
    # backbones and the model
    Mutant(
        'prompts-pooled',
        'backbones/vit.py',
        "first = cfg.num_lead + (0 if cfg.pool == 'mean_prompts' else num_prompts)",
        'first = cfg.num_lead',
        ('backbones/test_vit.py',),
    ),
    Mutant(
        'positions-shifted',
        'backbones/vit.py',
        'x = x + positions[:, int(cfg.class_position) :]',
        'x = x + positions[:, : x.shape[1]]',
        ('backbones/test_vit.py', 'weights/test_formats.py'),
    ),
    Mutant(
        'raw-features-with-gradient',
        'model.py',
        "variables = {'params': jax.lax.stop_gradient(backbone_params)}",
        "variables = {'params': backbone_params}",
        ('tuners/test_lion.py',),
    ),
    # tuners
    Mutant(
        'lion-without-stop-gradient',
        'tuners/lion.py',
        'return jax.lax.stop_gradient(seen).astype(features.dtype)',
        'return seen.astype(features.dtype)',
        ('tuners/test_lion.py',),
    ),
    Mutant(
        'lora-without-scale',
        'tuners/lora.py',
        'y + self.scale * update',
        'y + update',
        ('tuners/test_adapters.py', 'tuners/test_merging.py'),
    ),
    Mutant(
        'gates-swapped',
        'tuners/gated.py',
        'gate * y[:, here] + (1.0 - gate) * x[:, here]',
        'gate * x[:, here] + (1.0 - gate) * y[:, here]',
        ('tuners/test_gated.py',),
    ),
    Mutant(
        'one-masked-prompt-seen',
        'tuners/vpt.py',
        '(index >= length) & (index < number)',
        '(index > length) & (index < number)',
        ('search/test_padding.py',),
    ),
    Mutant(
        'clue-in-the-first-stage-alone',
        'tuners/dvpt.py',
        'first = place.layer == place.stage_start',
        'first = place.layer == 0',
        ('tuners/test_swin_prompts.py', 'tuners/test_swin_methods.py', 'tuners/test_dvpt.py'),
    ),
    Mutant(
        'robust-threshold-turned',
        'tuners/robust.py',
        'warm | (c >= bar)',
        'warm | (c < bar)',
        ('tuners/test_robust.py',),
    ),
    Mutant(
        'clusters-of-the-farthest',
        'calibrate/clusters.py',
        'label = distances.argmin(-1)',
        'label = distances.argmax(-1)',
        ('calibrate/test_kmeans.py',),
    ),
    # weights
    Mutant(
        'google-heads-transposed',
        'weights/tables.py',
        'return x.reshape(-1, *x.shape[2:]) if x.ndim >= 2 else x',
        'return x.swapaxes(0, 1).reshape(-1, *x.shape[2:]) if x.ndim > 2 else x',
        ('weights/test_formats.py',),
    ),
    Mutant(
        'keys-and-values-swapped',
        'weights/vit.py',
        "(('query', (0, 3)), ('key', (1, 3)), ('value', (2, 3)))",
        "(('query', (0, 3)), ('key', (2, 3)), ('value', (1, 3)))",
        ('weights/test_formats.py',),
    ),
    # data
    Mutant(
        'mean-and-std-swapped',
        'data/transforms.py',
        'centred = _to_unit(images) - jnp.asarray(mean, jnp.float32)\n'
        '    return centred / jnp.asarray(std, jnp.float32)',
        'centred = _to_unit(images) - jnp.asarray(std, jnp.float32)\n'
        '    return centred / jnp.asarray(mean, jnp.float32)',
        ('data/test_transforms.py',),
    ),
    Mutant(
        'half-a-pixel-off',
        'data/transforms.py',
        '(np.arange(size) + corner[axis] + 0.5) * (length / full[axis]) - 0.5',
        '(np.arange(size) + corner[axis]) * (length / full[axis])',
        ('data/test_transforms.py',),
    ),
    Mutant(
        'a-fourth-split-allowed',
        'data/packed.py',
        '(membership > 2)',
        '(membership > 3)',
        ('data/test_packed.py',),
    ),
    Mutant(
        'long-tail-off-by-one',
        'data/draws.py',
        '** (i / (len(groups) - 1.0))',
        '** (i / len(groups))',
        ('data/test_fgvc.py',),
    ),
    # training and evaluation
    Mutant(
        'cosine-turned',
        'train/optim.py',
        'cosine = 0.5 * (1.0 + jnp.cos',
        'cosine = 0.5 * (1.0 - jnp.cos',
        ('train/test_optim.py',),
    ),
    Mutant(
        'biases-decayed-alone',
        'train/optim.py',
        "path.rsplit('/', 1)[-1] not in EXEMPT for path in flat",
        "path.rsplit('/', 1)[-1] in EXEMPT for path in flat",
        ('train/test_optim.py',),
    ),
    Mutant(
        'padding-in-the-loss',
        'train/step.py',
        'loss = jnp.sum(losses * part.weights) / jnp.maximum(total, 1.0)',
        'loss = jnp.sum(losses) / jnp.maximum(total, 1.0)',
        ('search/test_padded_steps.py', 'train/test_mesh.py'),
    ),
    Mutant(
        'average-turned',
        'train/step.py',
        'optax.incremental_update(trainable, ema, 1.0 - program.optim.ema_decay)',
        'optax.incremental_update(trainable, ema, program.optim.ema_decay)',
        ('search/test_padded_steps.py', 'train/test_optim.py'),
    ),
    Mutant(
        'padding-evaluated',
        'evals/classify.py',
        'real = rows < count',
        'real = rows <= count',
        ('evals/test_classify.py', 'search/test_population.py'),
    ),
    Mutant(
        'the-worst-candidate-wins',
        'search/search.py',
        'best = max(good, key=',
        'best = min(good, key=',
        ('search/test_search.py', 'runs/test_run.py'),
    ),
    Mutant(
        'tokens-of-the-next-layer',
        'calibrate/spt.py',
        "levels = {'own': range(num_layers)",
        "levels = {'own': range(1, num_layers + 1)",
        ('calibrate/test_spt.py',),
    ),
    Mutant(
        'every-run-compiles-twice',
        'model.py',
        'if kaiming else 0.0, jnp.float32)',
        'if kaiming else 0.0)',
        ('train/test_loop.py', 'test_methods.py'),
    ),
    Mutant(
        'snapshots-one-epoch-late',
        'train/snapshots.py',
        'epoch % every == 0',
        'epoch % every == 1',
        ('train/test_snapshots.py',),
    ),
    Mutant(
        'a-failure-hides-a-result',
        'report/rows.py',
        'if other is None or _rank(row) > _rank(other):',
        'if other is None or _rank(row) < _rank(other):',
        ('report/test_rows.py',),
    ),
)
