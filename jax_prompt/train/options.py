"""Parts of a run's configuration: how images come in, how the backbone runs, how the loop runs."""

from dataclasses import dataclass

from jax_prompt.core.ranges import at_least, check_values, part, positive, real, seed, share


@dataclass(frozen=True)
class Input:
    """How images are found and brought to the model's size.

    Attributes:
      data_dir: where TFDS builders are prepared; '': TFDS's default.
      val_fraction: share of train taken for val where the data has none.
      test_fraction: share taken for test where the data has none; 0: no test split.
      resize: 'bicubic', 'bilinear' (both antialiased) or 'bilinear_tf' (as tf.image.resize).
      crop: 'squash' (ratio ignored) or 'centre'.
      crop_ratio: image size over resized shorter side, for 'centre'.
      store_size: side of the stored training image in pixels; 0: the image size, or 256/224 of it
        where a random crop needs room.
      workers: decoding threads.
      budget_mb: memory for a split of uint8 images on the device; larger ones are streamed.
      cache_mb: memory for activations at the cut; 0: never cached.
      image_cache: folder of decoded images that runs share (`data/image_cache.py`); '': none.
      draw_seed: of val and test that are drawn from train, and of a subset that `data` names; runs
        of different seeds share it.
    """

    data_dir: str = ''
    val_fraction: float = share(0.2)
    test_fraction: float = share(0.0)
    resize: str = 'bicubic'
    crop: str = 'squash'
    crop_ratio: float = part(0.875)
    store_size: int = at_least(0, 0, 16_384)
    workers: int = at_least(2, 1, 1024)
    budget_mb: float = at_least(4096.0)
    cache_mb: float = at_least(2048.0)
    image_cache: str = ''
    draw_seed: int = seed()

    def __post_init__(self):
        check_values(self, 'input.')


@dataclass(frozen=True)
class Model:
    """How the backbone runs.

    Attributes:
      pool: 'cls', 'mean' or 'mean_prompts'; '': the backbone's own.
      dtype: of the products, 'float32' or 'bfloat16'.
      frozen_dtype: how frozen weights are kept, 'float32' or 'bfloat16'.
      remat: 'none', 'save' or 'full' (`backbones/stack.py`); 'auto': chosen (`train/memory.py`).
      scan: whether blocks run as a loop of the program or unrolled (`backbones/vit_config.py`).
      drop_path_rate: stochastic depth.
      patch_drop_rate: share of patches left out in training.
      head_std: standard deviation of the head's initialisation.
      mean: what the weights want, images in [0, 1]; (): the weights' own.
      std: likewise.
    """

    pool: str = ''
    dtype: str = 'float32'
    frozen_dtype: str = 'float32'
    remat: str = 'auto'
    scan: bool = True
    drop_path_rate: float = share(0.0)
    patch_drop_rate: float = share(0.0)
    head_std: float = at_least(0.02)
    mean: tuple[float, ...] = real(())
    std: tuple[float, ...] = positive(())

    def __post_init__(self):
        check_values(self, 'model.')
        for name in ('mean', 'std'):
            if len(getattr(self, name)) not in (0, 3):
                raise ValueError(
                    f'model.{name} is {getattr(self, name)}; allowed: three numbers, or () for '
                    "the weights' own"
                )


@dataclass(frozen=True)
class Engine:
    """How the loop runs. Of these only `eval_every` (the best epoch) and 'skip' change a result.

    (And `micro_batch`, where dropout or stochastic depth draws: each part draws its own masks.)
    "Change a result" means beyond rounding: the last bits depend on `micro_batch`, on the devices
    and, on a CPU, on the number of cores (docs/performance.md).

    Attributes:
      eval_batch_size: images an evaluation call.
      eval_every: epochs between validations.
      steps_per_call: most steps in one device program.
      checkpoint_seconds: least time between checkpoints.
      snapshot_every: epochs between snapshots (`train/snapshots.py`); 0: none.
      num_devices: devices that share a batch; 0: all, those of every process.
      fsdp: devices that share each frozen weight; divides their number (`docs/scaling.md`).
      micro_batch: most images whose gradient is formed at once; 0: chosen (`train/memory.py`).
      memory_mb: what the activations of a step may take on each device, in MB; 0: half of its
        memory, 4 GB on CPU.
      on_nonfinite: what a step with a loss or gradient that is not finite does: 'stop' the run (its
        checkpoints stay), or 'skip' that step and count it.
      min_converged: share of an epoch's inner solves that has to converge, for methods with such.
      on_unconverged: what less does: 'warn', or 'stop' the run.
    """

    eval_batch_size: int = at_least(64, 1)
    eval_every: int = at_least(1, 1)
    steps_per_call: int = at_least(200, 1)
    checkpoint_seconds: float = at_least(30.0)
    snapshot_every: int = at_least(0)
    num_devices: int = at_least(0)
    fsdp: int = at_least(1, 1)
    micro_batch: int = at_least(0)
    memory_mb: float = at_least(0.0)
    on_nonfinite: str = 'stop'
    min_converged: float = share(0.95, whole=True)
    on_unconverged: str = 'warn'

    def __post_init__(self):
        check_values(self, 'engine.')
        choices = {'on_nonfinite': ('stop', 'skip'), 'on_unconverged': ('warn', 'stop')}
        for name, allowed in choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f'engine.{name} is {value!r}; allowed: {allowed}')
