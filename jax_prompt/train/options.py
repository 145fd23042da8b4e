"""Parts of a run's configuration: how images come in, how the backbone runs, how the loop runs."""

from dataclasses import dataclass


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
    val_fraction: float = 0.2
    test_fraction: float = 0.0
    resize: str = 'bicubic'
    crop: str = 'squash'
    crop_ratio: float = 0.875
    store_size: int = 0
    workers: int = 2
    budget_mb: float = 4096.0
    cache_mb: float = 2048.0
    image_cache: str = ''
    draw_seed: int = 0


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
    drop_path_rate: float = 0.0
    patch_drop_rate: float = 0.0
    head_std: float = 0.02
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


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

    eval_batch_size: int = 64
    eval_every: int = 1
    steps_per_call: int = 200
    checkpoint_seconds: float = 30.0
    snapshot_every: int = 0
    num_devices: int = 0
    fsdp: int = 1
    micro_batch: int = 0
    memory_mb: float = 0.0
    on_nonfinite: str = 'stop'
    min_converged: float = 0.95
    on_unconverged: str = 'warn'

    def __post_init__(self):
        choices = {'on_nonfinite': ('stop', 'skip'), 'on_unconverged': ('warn', 'stop')}
        for name, allowed in choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f'engine.{name} is {value!r}; allowed: {allowed}')
        least_of = {
            'snapshot_every': 0,
            'num_devices': 0,
            'fsdp': 1,
            'micro_batch': 0,
            'memory_mb': 0,
        }
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise ValueError(f'engine.{name} is {getattr(self, name)}; at least {least}')
        if not 0.0 <= self.min_converged <= 1.0:
            raise ValueError(f'engine.min_converged is {self.min_converged}; allowed: [0, 1]')
