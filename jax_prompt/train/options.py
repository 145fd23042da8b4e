"""Parts of a run's configuration: reading images, running the backbone, running the loop."""

from dataclasses import dataclass

from jax_prompt.core.ranges import at_least, check_values, part, positive, real, seed, share


@dataclass(frozen=True)
class Input:
    """How images are read and resized to the model's size.

    Attributes:
      data_dir: folder with the prepared TFDS sets; '': the default of TFDS.
      val_fraction: share of train that becomes val if the data has no val.
      test_fraction: share of train that becomes test if the data has no test; 0: no test split.
      resize: how images are resized: 'bicubic' or 'bilinear' (both antialiased), or 'bilinear_tf'
        (as tf.image.resize).
      crop: 'squash' ignores the ratio of the sides; 'centre' keeps it and cuts the centre.
      crop_ratio: for crop='centre', the image size divided by the resized shorter side.
      store_size: side of the stored training images in pixels; 0: the image size, or 256/224 of it
        if a random crop needs room.
      workers: number of threads that decode images.
      budget_mb: memory for the uint8 images of a split on the device, in MB; a larger split is
        streamed.
      cache_mb: memory for cached activations of the frozen part, in MB; 0: nothing is cached.
      image_cache: folder of decoded images that runs share (`data/image_cache.py`); '': no cache.
      draw_seed: seed of the draw of val and test from train, and of a subset that `data` names;
        runs with different seeds share it.
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
      pool: how tokens become features: 'cls', 'mean' or 'mean_prompts'; '': as the backbone does.
      dtype: dtype of matrix products, 'float32' or 'bfloat16' (with float32 sums); 'auto': bfloat16
        where the device multiplies it faster (`core/devices.py`). The run's config.json holds the
        choice.
      frozen_dtype: dtype in which frozen weights are kept, 'float32' or 'bfloat16'.
      remat: what the backward pass recomputes: 'none', 'save' or 'full' (`backbones/stack.py`);
        'auto': the run chooses (`train/memory.py`).
      scan: True runs the blocks as a loop of the program; False unrolls them.
      drop_path_rate: rate of stochastic depth in training.
      patch_drop_rate: share of patches that are left out in training.
      head_std: standard deviation of the head's initial weights.
      head_init: how the head starts: 'normal' (with `head_std`, bias 0) or 'kaiming' (VPT's code:
        variance 2 / classes, bias -log(99)).
      norm: final norm of the backbone: '' as in the file, or 'fresh' (scale 1, bias 0, frozen: what
        VPT's code does with MAE's weights).
      mean: mean that normalises images in [0, 1], by channel; (): that of the weights.
      std: standard deviation that normalises images in [0, 1], by channel; (): that of the weights.
    """

    pool: str = ''
    dtype: str = 'float32'
    frozen_dtype: str = 'float32'
    remat: str = 'auto'
    scan: bool = True
    drop_path_rate: float = share(0.0)
    patch_drop_rate: float = share(0.0)
    head_std: float = at_least(0.02)
    head_init: str = 'normal'
    norm: str = ''
    mean: tuple[float, ...] = real(())
    std: tuple[float, ...] = positive(())

    def __post_init__(self):
        check_values(self, 'model.')
        for name, allowed in (('head_init', ('normal', 'kaiming')), ('norm', ('', 'fresh'))):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f'model.{name} is {value!r}; allowed: {allowed}')
        for name in ('mean', 'std'):
            if len(getattr(self, name)) not in (0, 3):
                raise ValueError(
                    f'model.{name} is {getattr(self, name)}; allowed: three numbers, or () for '
                    "the weights' own"
                )


@dataclass(frozen=True)
class Engine:
    """How the loop runs.

    Only three of these change a result. `eval_every` changes which epoch can be the best.
    on_nonfinite='skip' leaves steps out. `micro_batch` matters with dropout or stochastic depth,
    because each part of a batch draws masks of its own.

    "Change a result" means more than rounding. The last bits depend on `micro_batch`, on the
    devices and, on a CPU, on the number of cores (docs/performance.md).

    Attributes:
      eval_batch_size: number of images that are evaluated at once.
      eval_every: number of epochs between validations.
      steps_per_call: largest number of steps in one call of the device.
      checkpoint_seconds: least time between two checkpoints, in seconds.
      snapshot_every: number of epochs between snapshots (`train/snapshots.py`); 0: no snapshots.
      num_devices: number of devices that share a batch; 0: all devices of all processes.
      fsdp: number of devices that share each frozen weight; it must divide the number of devices
        (`docs/scaling.md`).
      micro_batch: largest number of images whose gradient is computed at once; 0: the run chooses
        (`train/memory.py`).
      memory_mb: memory that the activations of a step may take on each device, in MB; 0: half of
        the device's memory, 4 GB on CPU.
      on_nonfinite: what happens if the loss or the gradient of a step is not finite: 'stop' ends
        the run and keeps its checkpoints; 'skip' leaves the step out and counts it.
      min_converged: share of an epoch's inner solves that must converge, for methods that have
        inner solves.
      on_unconverged: what happens if fewer converge: 'warn' says so; 'stop' ends the run.
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
