"""Estimates the memory of a training step's activations, and makes a step fit.

The estimates count what a step keeps for the backward pass through every block. Weights and
optimizer state are not counted: they are small beside the activations, or needed in any case. The
estimates include products, norms and attention, and not what XLA adds or saves. On ViT-Ti/16 with
50 prompts they lie within a third of XLA's own figures (`tests/train/test_micro_batch.py` compares
those of a smaller ViT).
"""

from dataclasses import dataclass
from typing import Any

import jax

from jax_prompt.core.devices import device_bytes, num_cores
from jax_prompt.core.facts import Facts
from jax_prompt.core.spec import BackboneSpec
from jax_prompt.core.tuner import Tuner
from jax_prompt.train.micro_batch import number_of_parts

# Rows of a product that fill one core of a CPU while they stay in its caches. On two cores parts of
# 500 and of 1,000 tokens train ViT-Ti and ViT-B equally fast, the first in two thirds of the memory
# (docs/performance.md).
_TOKENS_PER_CORE = 384
# The same of a network of convolutions, in pixels of its first stage: two images of 224 pixels. On
# two cores ResNet-50 trains in parts of 4 images 1.3 times as fast as in one of 8, 1.6 times as
# fast as in one of 32.
_PIXELS_PER_CORE = 2 * 56**2
_CPU_MB = 4096.0
_KEPT = 1.5  # by automatic differentiation, over the outputs of the named operations


@dataclass(frozen=True)
class StepPlan:
    """How a step is made to fit.

    Attributes:
      micro_batch: most images whose gradient is formed at once; 0: the whole batch.
      remat: what the backward pass keeps, 'none', 'save' or 'full' (`backbones/stack.py`).
    """

    micro_batch: int
    remat: str


def plan_step(
    spec: BackboneSpec,
    tuner: Tuner,
    batch_size: int,
    *,
    remat: str = 'auto',
    micro_batch: int = 0,
    memory_mb: float = 0.0,
    together: bool = False,
    devices: int = 1,
    fsdp: int = 1,
    bytes_per_value: int = 4,
    device: Any = None,
) -> StepPlan:
    """Chooses what is left open of a step.

    On a CPU a batch is computed in parts that the caches hold, and a transformer's blocks keep four
    tensors each, which is the fastest there. Elsewhere the whole batch keeps what the memory holds;
    where even 'full' is too much, in parts. A transformer whose weights are split over devices
    never keeps all: the gathered weights of every block would be kept too (docs/scaling.md).

    Args:
      spec: the backbone.
      tuner: what the method adds.
      batch_size: images a step.
      remat: 'auto', or what is asked for.
      micro_batch: 0, or what is asked for.
      memory_mb: what activations may take on each device, in MB; 0: half of its memory, 4 GB on
        CPU.
      together: whether images have to be computed together, since results depend on all of them.
      devices: devices that share the batch.
      fsdp: devices that share each frozen weight.
      bytes_per_value: of an activation.
      device: for which kind of device; None: those that are there.
    """
    device = device or jax.local_devices()[0]
    on_cpu = device.platform == 'cpu'
    budget = memory_mb or device_memory_mb(0.5, device)
    forms = ('none', 'save', 'full') if spec.num_heads else ('none', 'full')
    order = forms[1:] if spec.num_heads and (on_cpu or fsdp > 1) else forms
    if (micro := micro_batch) == 0 and on_cpu:
        rows = _TOKENS_PER_CORE if spec.num_heads else _PIXELS_PER_CORE
        micro = max(num_cores() * rows // max(_tokens(spec, tuner.facts(spec)), 1), devices)
    if together:
        micro = batch_size

    def fits(form: str, images: int) -> bool:
        held = activations_mb(spec, tuner, form, -(-images // devices), bytes_per_value)
        return held <= budget

    def part() -> int:
        return batch_size // number_of_parts(batch_size, micro, devices)

    chosen = remat
    if remat == 'auto':
        chosen = next((form for form in order if fits(form, part())), order[-1])
    if not micro_batch and not together:
        while part() > devices and not fits(chosen, part()):
            micro = part() - 1
    return StepPlan(0 if part() == batch_size else part(), chosen)


def activations_mb(
    spec: BackboneSpec, tuner: Tuner, remat: str, images: int, bytes_per_value: int = 4
) -> float:
    """Estimates what a step keeps for its backward pass and needs to compute a block, in MB.

    Args:
      spec: the backbone.
      tuner: what the method adds; its prompts count, what else it computes does not.
      remat: 'none', 'save' or 'full'.
      images: images on one device.
      bytes_per_value: of an activation.
    """
    kept, working, facts = 0.0, 0.0, tuner.facts(spec)
    for run in spec.runs().values():
        tokens, sites = _tokens(run, facts), run.sites
        # Deep prompts go no further than keys and values.
        rest = tokens - (facts.prompt_length if len(facts.prompt_layers) > 1 else 0)
        # Where a grid shrinks, what enters its first block is larger; little beside the rest.
        outputs = {
            name: site.outputs * (tokens if name == 'qkv' else rest)
            for name, site in sites.items()
            if site.weights
        }
        all_of = _KEPT * sum(outputs.values())
        each = {
            'none': all_of,
            'save': 2 * run.width * rest + sum(outputs[n] for n in _SAVED if n in outputs),
            'full': run.width * rest,
        }[remat]
        kept += run.num_layers * each
        # A block's backward pass: its activations, their gradients, two maps of attention.
        working = max(working, 2 * all_of + 2 * run.num_heads * tokens**2)
    return images * (kept + working) * bytes_per_value / 1e6


_SAVED = ('qkv', 'fc1')


def _tokens(spec: BackboneSpec, facts: Facts) -> int:
    return spec.num_lead + spec.num_patches + (facts.prompt_length if spec.has_tokens else 0)


def device_memory_mb(part: float, device: Any = None) -> float:
    """Returns this part of an accelerator's memory, in MB; 4 GB on CPU.

    Args:
      part: the part.
      device: the accelerator; None: the first that is there.
    """
    device = device or jax.local_devices()[0]
    held = 0 if device.platform == 'cpu' else device_bytes(device)
    return part * held / 1e6 if held else _CPU_MB
