"""What trains beside the frozen PyTorch backbones: deep prompts, a border of pixels, LION.

The same maths as `jax_prompt/tuners/vpt.py`, `pixel.py` and `lion.py`, with as many iterations in
LION's solves: iterates without a graph, then one application with it, whose vector-Jacobian
products the backward solve iterates.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

WIDTHS = {'resnet': 22, 'vit': 71, 'swin': 105}  # of LION's second block
_KAPPA = 0.9
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Prompts(nn.Module):
    """Prompts of like layers."""

    def __init__(self, *shape: int):
        super().__init__()
        self.prompts = nn.Parameter(torch.zeros(shape))


class DeepPrompts(nn.Module):
    """P prompts at every layer."""

    def __init__(self, config, options: Mapping[str, Any]):
        super().__init__()
        stages = {
            name: Prompts(run.num_layers, options['num_prompts'], run.width)
            for name, run in config.spec().runs().items()
        }
        self.layers = nn.ModuleDict(stages) if config.spec().stages else stages['']

    def forward(self, backbone: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Maps images [B, 3, H, W] to features [B, D]."""
        stages = [m for m in self.layers.modules() if isinstance(m, Prompts)]
        return backbone(x, [own for stage in stages for own in stage.prompts.unbind(0)])


class Border(nn.Module):
    """A border of p pixels around the image."""

    def __init__(self, config, options: Mapping[str, Any]):
        super().__init__()
        p, inner = options['num_prompts'], config.image_size
        wide, high = torch.zeros(p, inner + 2 * p, 3), torch.zeros(inner, p, 3)
        sides = {'top': wide, 'bottom': wide, 'left': high, 'right': high}
        self.shared = nn.ParameterDict({k: nn.Parameter(v.clone()) for k, v in sides.items()})
        self.register_buffer('mean', torch.tensor(_MEAN), persistent=False)
        self.register_buffer('std', torch.tensor(_STD), persistent=False)

    def forward(self, backbone: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Maps images [B, 3, H, W] to features [B, D]."""
        top, bottom, left, right = (
            ((self.shared[k] - self.mean) / self.std).permute(2, 0, 1).expand(len(x), -1, -1, -1)
            for k in ('top', 'bottom', 'left', 'right')
        )
        row = torch.cat([left, x, right], dim=3)
        return backbone(torch.cat([top, row, bottom], dim=2))


class LION(nn.Module):
    """Equilibrium blocks on the image and on the features.

    Attributes:
      keep_raw: whether features of the raw image are computed once and kept; else at each call.
    """

    keep_raw = False

    def __init__(self, config, options: Mapping[str, Any]):
        super().__init__()
        width, dim = WIDTHS[config.family], config.spec().feature_dim
        p1 = nn.Module()
        p1.layer_00 = nn.ModuleDict(
            {
                'in': nn.Conv2d(3, 64, 3, padding=1),
                'out': nn.Conv2d(64, 3, 3, padding=1, bias=False),
            }
        )
        p1.scale, p1.offset = (nn.Parameter(torch.zeros(3)) for _ in range(2))
        p2 = nn.Module()
        p2.layer_00 = nn.ModuleDict(
            {'in': nn.Linear(width, width), 'out': nn.Linear(width, width, bias=False)}
        )
        p2.into, p2.out = nn.Linear(dim, width), nn.Linear(width, dim)
        for block in (p1, p2):
            block.gates = nn.Parameter(torch.zeros(2))
        self.shared = nn.ModuleDict({'p1': p1, 'p2': p2})
        self.forward_steps, self.backward_steps = options['max_iter'], options['backward_max_iter']
        self.raw: torch.Tensor | None = None

    def forward(self, backbone: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Maps images [B, 3, H, W] to features [B, D]."""
        p1, p2 = self.shared['p1'], self.shared['p2']
        with torch.no_grad():
            raw = backbone(x) if self.raw is None else self.raw
        if self.keep_raw:
            self.raw = raw
        z = self._solve(p1, x, F.conv2d, padding=1)
        prompt = p1.scale[:, None, None] * z + p1.offset[:, None, None]
        features = backbone(blend(p1.gates, x, prompt))
        h = self._solve(p2, p2.into(raw), F.linear)
        return blend(p2.gates, features, p2.out(h))

    def _solve(
        self, block: Any, x: torch.Tensor, apply: Callable[..., torch.Tensor], **how: int
    ) -> torch.Tensor:
        """Returns the fixed point of z = x + C2 relu(C1 z + b)."""
        first, second = block.layer_00['in'], block.layer_00['out']
        into, bias, back = clip(first.weight), first.bias, clip(second.weight)

        def f(z: torch.Tensor) -> torch.Tensor:
            hidden = F.relu(apply(z, into, bias, **how), inplace=True)
            return x + apply(hidden, back, **how)

        with torch.no_grad():
            z = x
            for _ in range(self.forward_steps):
                z = f(z)
        if not torch.is_grad_enabled():
            return z
        z = z.detach().requires_grad_()
        return FixedPoint.apply(f(z), z, self.backward_steps)


class FixedPoint(torch.autograd.Function):
    """Returns z, and passes a cotangent g on to f(z) as the solution of u = g + u df/dz."""

    @staticmethod
    def forward(ctx, fz: torch.Tensor, z: torch.Tensor, steps: int) -> torch.Tensor:
        """Returns z; fz = f(z) has the graph."""
        ctx.save_for_backward(fz, z)
        ctx.steps = steps
        return z.detach().clone()

    @staticmethod
    def backward(ctx, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Returns u after so many iterations from u = g."""
        (g,), (fz, z) = grads, ctx.saved_tensors
        u = g
        for _ in range(ctx.steps):
            u = g + torch.autograd.grad(fz, z, u, retain_graph=True)[0]
        return u, None, None


def clip(weight: torch.Tensor) -> torch.Tensor:
    """Scales a kernel [D, C, k, k] or [D, C] down to its share of the contraction."""
    return weight * (_KAPPA**0.5 / operator_bound(weight)).clamp(max=1.0)


def operator_bound(weight: torch.Tensor) -> torch.Tensor:
    """Returns the norm of a product, or k times the least of four readings of a convolution."""
    if weight.ndim == 2:
        return torch.linalg.matrix_norm(weight, 2)
    outputs, inputs, k, _ = weight.shape
    readings = (
        weight.flatten(1),
        weight.transpose(0, 1).flatten(1),
        weight.permute(2, 0, 3, 1).reshape(k * outputs, k * inputs),
        weight.permute(3, 0, 2, 1).reshape(k * outputs, k * inputs),
    )
    return math.sqrt(k * k) * torch.stack([torch.linalg.matrix_norm(m, 2) for m in readings]).min()


def blend(gates: torch.Tensor, x: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
    """Returns alpha x + beta prompt, by the softmax of two gates."""
    alpha, beta = torch.softmax(gates, 0)
    return alpha * x + beta * prompt
