"""Parts of a run's configuration: reading images, running the backbone, running the loop."""

from dataclasses import dataclass


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
      draw_seed: of a subset that `data` names; runs of different seeds share it.
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
      pool: how tokens become features: 'cls', 'mean' or 'mean_prompts'; '': as the backbone does.
      dtype: dtype of matrix products, 'float32' or 'bfloat16'.
      frozen_dtype: dtype in which frozen weights are kept, 'float32' or 'bfloat16'.
      remat: what the backward pass recomputes: 'none', 'save' or 'full' (`backbones/stack.py`);
        'auto': the run chooses (`train/memory.py`).
      scan: True runs the blocks as a loop of the program; False unrolls them.
      drop_path_rate: rate of stochastic depth in training.
      patch_drop_rate: share of patches that are left out in training.
      head_std: standard deviation of the head's initial weights.
      mean: mean that normalises images in [0, 1], by channel; (): that of the weights.
      std: standard deviation that normalises images in [0, 1], by channel; (): that of the weights.
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
    """How the loop runs.

    Only three of these change a result. `eval_every` changes which epoch can be the best.
    on_nonfinite='skip' leaves steps out. `micro_batch` matters with dropout or stochastic depth,
    because each part of a batch draws masks of its own.

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
