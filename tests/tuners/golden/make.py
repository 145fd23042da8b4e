"""Makes released.npz: what the released codes of VPT and SPT compute on a tiny ViT.

    git clone https://github.com/KMnP/vpt
    git clone https://github.com/WangYZ1608/Self-Prompt-Tuning
    PYTHONPATH=tests python tests/tuners/golden/make.py --vpt vpt --spt Self-Prompt-Tuning

It needs torch and timm. For each case the file holds the first logits and gradients, the loss of
each of 20 optimizer steps, and what trained in the end. The models, optimizers and schedules are
the codes' own; dropout is off, and each step sees the same eight images.
"""

import argparse
import importlib
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import torch
import torch_reference
from torch import nn

SIZE, PATCH, WIDTH, DEPTH, HEADS, CLASSES, PROMPTS = 12, 4, 16, 2, 2, 5, 3
EPOCHS, WARMUP, STEPS = 10, 2, 2  # steps an epoch
VIT = {
    **{'img_size': SIZE, 'patch_size': PATCH, 'embed_dim': WIDTH, 'depth': DEPTH},
    **{'num_heads': HEADS, 'mlp_ratio': 4, 'qkv_bias': True},
    'norm_layer': partial(nn.LayerNorm, eps=1e-6),
}
VPT_OPTIONS = SimpleNamespace(
    OPTIMIZER='sgd', BASE_LR=0.5, WEIGHT_DECAY=0.01, MOMENTUM=0.9, BIAS_MULTIPLIER=1.0,
    DBG_TRAINABLE=False, SCHEDULER='cosine', WARMUP_EPOCH=WARMUP, TOTAL_EPOCH=EPOCHS,
)  # fmt: skip
PROMPT_OPTIONS = SimpleNamespace(
    DEEP=True, LOCATION='prepend', NUM_TOKENS=PROMPTS, DROPOUT=0.0, INITIATION='random',
    VIT_POOL_TYPE='original',
)  # fmt: skip
SPT_OPTIONS = SimpleNamespace(lr=0.05, min_lr=1e-8, warmup_epochs=WARMUP, epochs=EPOCHS)


def clone(path: str, names: list[str]) -> None:
    """Puts a clone first on the path, and stands in for packages that its code imports."""
    sys.path.insert(0, path)
    for name in names:
        sys.modules[name] = MagicMock(__name__=name, __path__=[], __spec__=None)


def steps_of(model, head, optimizer, before_step, after_epoch, images, labels):
    """Returns logits, gradients, losses and trained values of 20 steps."""
    out = {'losses': []}
    trained = {**dict(model.named_parameters()), **{f'HEAD.{k}': v for k, v in head}}
    trained = {name: p for name, p in trained.items() if p.requires_grad}
    for epoch in range(EPOCHS):
        for step in range(STEPS):
            before_step(epoch + step / STEPS)
            logits = model.logits(images)
            loss = nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            if not out['losses']:
                out['logits'] = logits.detach().numpy()
                out |= {f'grad/{name}': p.grad.numpy().copy() for name, p in trained.items()}
                out |= {f'start/{name}': p.detach().numpy().copy() for name, p in trained.items()}
            out['losses'].append(loss.item())
            optimizer.step()
        after_epoch()
    out |= {f'end/{name}': p.detach().numpy() for name, p in trained.items()}
    return {name: np.asarray(value, np.float32) for name, value in out.items()}


def vpt_case(method, state, images, labels):
    """Runs VPT's MAE model with prompts, or with trained biases."""
    plain = importlib.import_module('src.models.vit_backbones.vit_mae')
    prompted = importlib.import_module('src.models.vit_prompt.vit_mae')
    options = {**VIT, 'global_pool': True, 'num_classes': 0}
    if method == 'vpt_deep':
        model = prompted.PromptedVisionTransformer(PROMPT_OPTIONS, **options)
    else:
        model = plain.VisionTransformer(**options)
    model.load_state_dict(state, strict=False)  # as the code: the file's norm is dropped
    key = 'prompt' if method == 'vpt_deep' else 'bias'
    for name, parameter in model.named_parameters():
        parameter.requires_grad = key in name
    head = importlib.import_module('src.models.mlp').MLP(WIDTH, [CLASSES], special_bias=True)
    model.logits = lambda x: head(model.forward_features(x))
    make = importlib.import_module('src.solver.optimizer').make_optimizer
    optimizer = make([model, head], VPT_OPTIONS)
    scheduler = importlib.import_module('src.solver.lr_scheduler').make_scheduler(
        optimizer, VPT_OPTIONS
    )
    after = lambda: scheduler.step()  # noqa: E731
    named = list(head.named_parameters())
    return steps_of(model, named, optimizer, lambda epoch: None, after, images, labels)


def spt_case(pretraining, state, images, labels):
    """Runs SPT-deep on supervised weights or on MAE's."""
    name = 'Models.vpt_deep' if pretraining == 'supervised' else 'Models.MAE_vpt_deep'
    prompts = 0.5 * torch.randn(DEPTH, PROMPTS, WIDTH)
    model = importlib.import_module(name).PromptVisionTransformer(
        num_prompts=PROMPTS, prompt_init=prompts, num_classes=CLASSES, **VIT
    )
    model.load_state_dict(state, strict=False)
    utils = importlib.import_module('utils')
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.split('.')[0] in ('prompt_token', 'head')
    nn.init.trunc_normal_(model.head.weight, std=0.02)
    nn.init.constant_(model.head.bias, 0)
    model.logits = lambda x: model.head(model.forward_features(x))
    groups = utils.param_groups_weight_decay(model, weight_decay=1e-2, weight_decay_head=0.5)
    optimizer = torch.optim.AdamW(groups, lr=SPT_OPTIONS.lr)
    adjust = partial(utils.adjust_learning_rate, optimizer, args=SPT_OPTIONS)
    return steps_of(model, [], optimizer, adjust, lambda: None, images, labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--vpt', required=True, help='clone of github.com/KMnP/vpt')
    parser.add_argument(
        '--spt', required=True, help='clone of github.com/WangYZ1608/Self-Prompt-Tuning'
    )
    args = parser.parse_args()
    torch_reference.timm_vit()
    clone(args.vpt, ['fvcore', 'fvcore.common', 'fvcore.common.config', 'src.utils'])
    clone(args.spt, ['matplotlib', 'matplotlib.pyplot'])
    torch.manual_seed(0)
    model = torch_reference.timm_vit().VisionTransformer(num_classes=0, **VIT)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    state = model.state_dict()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
    labels = (np.arange(8) % CLASSES).astype(np.int64)
    images = torch.from_numpy((pixels.astype(np.float32) / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)
    out = {f'weights/{name}': value.numpy() for name, value in state.items()}
    out |= {'images': pixels, 'labels': labels}
    cases = {
        'vpt_deep': partial(vpt_case, 'vpt_deep'),
        'bias': partial(vpt_case, 'bias'),
        'spt_supervised': partial(spt_case, 'supervised'),
        'spt_mae': partial(spt_case, 'mae'),
    }
    for case, run in cases.items():
        found = run(state, images, torch.from_numpy(labels))
        out |= {f'{case}/{name}': value for name, value in found.items()}
        print(case, found['losses'][[0, 5, -1]])
    np.savez_compressed(Path(__file__).with_name('released.npz'), **out)


if __name__ == '__main__':
    main()
