"""Independent torch implementations that converters are compared with.

They need, on CPU and without the CUDA wheels:

    pip install torch==2.13.0
    pip install --no-deps timm torchvision==0.28.0
    pip install huggingface_hub safetensors pyyaml transformers

Without them the comparisons skip. timm imports torchvision, whose wheel registers kernels for
operators that only its own C++ library declares; with CPU torch that library does not load, so the
operators are declared here first.
"""

import importlib.util
import sys
import warnings
from functools import cache

import pytest

NEEDED = ('torch', 'timm', 'torchvision', 'transformers')


def missing() -> list[str]:
    """Names what is not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


needs_torch = pytest.mark.skipif(
    bool(missing()), reason=f'the torch references need {", ".join(missing())}: see this module'
)


@cache
def _declare_operators():
    import torch

    library = torch.library.Library('torchvision', 'FRAGMENT')
    for name in ('nms', 'qnms'):
        library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    for name in [n for n in sys.modules if n.split('.')[0] == 'torchvision']:
        del sys.modules[name]
    return library  # the declarations live as long as this object


@cache
def timm_vit():
    """Returns the module `timm.models.vision_transformer`."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # those of importing other people's code
        import torch

        try:
            import torchvision  # noqa: F401
        except (RuntimeError, ImportError):
            _declare_operators()
        torch.set_num_threads(1)
        from timm.models import vision_transformer
    return vision_transformer


@cache
def timm_swin():
    """Returns the module `timm.models.swin_transformer`."""
    timm_vit()
    from timm.models import swin_transformer

    return swin_transformer


@cache
def torchvision_swin():
    """Returns the module `torchvision.models.swin_transformer`."""
    timm_vit()
    from torchvision.models import swin_transformer

    return swin_transformer


@cache
def timm_resnet():
    """Returns the module `timm.models.resnet`."""
    timm_vit()
    from timm.models import resnet

    return resnet


@cache
def torchvision_resnet():
    """Returns the module `torchvision.models.resnet`."""
    timm_vit()
    from torchvision.models import resnet

    return resnet


@cache
def timm_convnext():
    """Returns the module `timm.models.convnext`."""
    timm_vit()
    from timm.models import convnext

    return convnext


@cache
def torchvision_convnext():
    """Returns the module `torchvision.models.convnext`."""
    timm_vit()
    from torchvision.models import convnext

    return convnext


@cache
def transformers():
    """Returns the package `transformers`."""
    timm_vit()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        import transformers as package

        package.logging.set_verbosity_error()
    return package


def randomise(module, seed: int = 0, scale: float = 0.2):
    """Gives every parameter random values, zero-initialised ones too, and turns dropout off."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * scale
            centre = 1.0 if 'norm' in name and name.endswith('weight') else 0.0
            parameter.copy_(noise / max(parameter.shape[-1], 1) ** 0.25 + centre)
    return module.eval()


def randomise_norms(module, images, seed: int = 0, scale: float = 0.2):
    """Gives every batch norm random weights, and running statistics near those of some images.

    Statistics far from the images' would let a deep network grow or vanish; so would weights near 1
    let the sum of its blocks grow.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]

    def noise(like):
        return scale * torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for norm in norms:
            norm.weight.copy_(0.3 + 0.3 * noise(norm.weight))
            norm.bias.copy_(noise(norm.bias))
            norm.momentum = 1.0
        module.train()(images)
        for norm in norms:
            norm.momentum = 0.1
            norm.running_mean += noise(norm.running_mean) * norm.running_var.sqrt()
            norm.running_var *= noise(norm.running_var).exp()
    return module.eval()
