"""Makes released.npz: what released codes compute on a tiny ViT.

    git clone https://github.com/KMnP/vpt
    git clone https://github.com/WangYZ1608/Self-Prompt-Tuning
    git clone https://github.com/ryongithub/GatedPromptTuning
    git clone https://github.com/ChengHan111/E2VPT
    git clone https://github.com/dongzelian/SSF
    PYTHONPATH=tests python tests/tuners/golden/make.py --vpt vpt --spt Self-Prompt-Tuning \\
        --gated GatedPromptTuning --e2vpt E2VPT --ssf SSF

It needs torch and timm, and makes the cases of the clones that are given; the others stay as they
are in the file. For each case the file holds the first logits and gradients, the loss of each of 20
optimizer steps, and what trained in the end. The models, optimizers and schedules are the codes'
own; dropout is off, and each step sees the same eight images. SSF's schedule starts at 1e-7, which
this project has not; its case has SPT's schedule, restated here.
"""

import argparse
import importlib
import math
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
GATED_OPTIONS = SimpleNamespace(
    **{**vars(PROMPT_OPTIONS), 'DEEP': False}, GATE_PRIOR=True, GATE_NUM=DEPTH - 1, GATE_INIT=5,
    TEMP=1.0, TEMP_LEARN=True, TEMP_NUM=DEPTH, TEMP_MIN=0.01, TEMP_MAX=10.0,
)  # fmt: skip
E2VPT_OPTIONS = SimpleNamespace(
    LOCATION='prepend', INITIATION='random', NUM_DEEP_LAYERS=None, DEEP_SHARED=False, PROJECT=-1,
    VIT_POOL_TYPE='original', NUM_TOKENS_P=PROMPTS, DEEP_P=True, DROPOUT_P=0.0, NUM_TOKENS=2,
    DEEP=True, DROPOUT=0.0, LAYER_BEHIND=True, SHARE_PARAM_KV=True, ORIGIN_INIT=2,
    SHARED_ACCROSS=False, QUERY_PROMPT_MODE=0, MASK_CLS_TOKEN=False,
)  # fmt: skip
SPT_OPTIONS = SimpleNamespace(lr=0.05, min_lr=1e-8, warmup_epochs=WARMUP, epochs=EPOCHS)


def clone(path: str, names: list[str]) -> None:
    """Puts a clone first on the path, and stands in for packages that its code imports.

    Modules of the clone before it are forgotten, as several codes call a package `src`.
    """
    for name in [n for n in sys.modules if n.split('.')[0] in ('src', 'utils', 'models')]:
        del sys.modules[name]
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
    return vpt_steps(model, model.forward_features, images, labels)


def vpt_steps(model, features, images, labels):
    """Takes the steps with VPT's head, optimizer and schedule, which later codes took over."""
    head = importlib.import_module('src.models.mlp').MLP(WIDTH, [CLASSES], special_bias=True)
    model.logits = lambda x: head(features(x))
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


def gated_case(state, images, labels):
    """Runs GateVPT's MAE model: gates of all blocks but the last, temperatures of all."""
    module = importlib.import_module('src.models.vit_prompt.vit_mae')
    model = module.PromptedVisionTransformer(
        GATED_OPTIONS, **VIT, global_pool=True, num_classes=0, drop_path_rate=0.0
    )
    model.load_state_dict(state, strict=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = any(key in name for key in ('prompt', 'gate', 'temp'))
    return vpt_steps(model, model.forward_features, images, labels)


def e2vpt_case(state, images, labels):
    """Runs E2VPT's supervised model before pruning, without masks."""
    vit = importlib.import_module('src.models.vit_backbones.vit')
    vit.CONFIGS['tiny'] = config = vit.configs.get_testing()
    config.patches.size, config.hidden_size = (PATCH, PATCH), WIDTH
    config.transformer.update(mlp_dim=4 * WIDTH, num_heads=HEADS, num_layers=DEPTH)
    config.transformer.dropout_rate = 0.0
    module = importlib.import_module('src.models.vit_prompt.vit_prompt_VK')
    model = module.PromptedVisionTransformer_Prompt_VK(E2VPT_OPTIONS, 'tiny', SIZE, 0)
    missing, unknown = model.load_state_dict(e2vpt_names(state), strict=False)
    assert not unknown and all('prompt' in k or 'QKV' in k for k in missing), (missing, unknown)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = 'prompt' in name or 'QKV' in name
    return vpt_steps(model, model, images, labels)


def e2vpt_names(state):
    """Renames timm's weights to those of the ViT in E2VPT's code."""
    names = {
        **{'cls_token': 'embeddings.cls_token', 'pos_embed': 'embeddings.position_embeddings'},
        **{'patch_embed.proj': 'embeddings.patch_embeddings', 'norm': 'encoder.encoder_norm'},
        **{'norm1': 'attention_norm', 'norm2': 'ffn_norm', 'attn.proj': 'attn.out'},
        **{'mlp.fc1': 'ffn.fc1', 'mlp.fc2': 'ffn.fc2'},
    }
    out = {}
    for name, value in state.items():
        stem, _, leaf = name.rpartition('.') if '.' in name else (name, '', '')
        dot = f'.{leaf}' if leaf else ''
        if not stem.startswith('blocks.'):
            out[f'transformer.{names[stem]}{dot}'] = value
            continue
        _, layer, part = stem.split('.', 2)
        start = f'transformer.encoder.layer.{layer}'
        if part == 'attn.qkv':
            for own, piece in zip(('query', 'key', 'value'), value.chunk(3), strict=True):
                out[f'{start}.attn.{own}{dot}'] = piece
        else:
            out[f'{start}.{names[part]}{dot}'] = value
    return out


def ssf_case(state, images, labels):
    """Runs SSF's ViT with its own split into what decays and what does not."""
    sys.modules['timm.models.layers.helpers'] = importlib.import_module('timm.layers')  # its place
    module = importlib.import_module('models.vision_transformer')
    model = module.VisionTransformer(num_classes=CLASSES, tuning_mode='ssf', **VIT)
    model.load_state_dict(state, strict=False)
    nn.init.trunc_normal_(model.head.weight, std=0.02)
    model.logits = model
    optimizer = importlib.import_module('optim_factory').create_optimizer_v2(
        model, opt='adamw', lr=SPT_OPTIONS.lr, weight_decay=0.05, tuning_mode='ssf'
    )

    def adjust(epoch):
        """Linear warm-up, then a cosine to `min_lr`, as SPT's code."""
        done = (epoch - WARMUP) / (EPOCHS - WARMUP)
        low, high = SPT_OPTIONS.min_lr, SPT_OPTIONS.lr
        cosine = low + (high - low) * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group['lr'] = high * epoch / WARMUP if epoch < WARMUP else cosine

    return steps_of(model, [], optimizer, adjust, lambda: None, images, labels)


# By code: its cases, and packages that stand in.
_VPT_NAMES = ['fvcore', 'fvcore.common', 'fvcore.common.config', 'src.utils']
CODES = {
    'vpt': (
        {name: partial(vpt_case, name) for name in ('vpt_deep', 'bias')},
        _VPT_NAMES,
    ),
    'spt': (
        {f'spt_{name}': partial(spt_case, name) for name in ('supervised', 'mae')},
        ['matplotlib', 'matplotlib.pyplot'],
    ),
    'gated': ({'gated_vpt': gated_case}, _VPT_NAMES),
    'e2vpt': ({'e2vpt': e2vpt_case}, [*_VPT_NAMES, 'turtle']),
    'ssf': ({'ssf': ssf_case}, ['ipdb', 'timm.optim.nadam', 'timm.optim.radam']),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    for code in CODES:
        parser.add_argument(f'--{code}', help='a clone of its repository')
    clones = {code: path for code, path in vars(parser.parse_args()).items() if path}
    torch.manual_seed(0)
    model = torch_reference.timm_vit().VisionTransformer(num_classes=0, **VIT)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    state = model.state_dict()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
    labels = (np.arange(8) % CLASSES).astype(np.int64)
    images = torch.from_numpy((pixels.astype(np.float32) / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)
    made = {f'weights/{name}': value.numpy() for name, value in state.items()}
    made |= {'images': pixels, 'labels': labels}
    file = Path(__file__).with_name('released.npz')
    out = dict(np.load(file)) if file.exists() else made
    assert all(np.array_equal(out[name], value) for name, value in made.items()), 'other weights'
    for code, path in clones.items():
        cases, names = CODES[code]
        clone(path, names)
        for case, run in cases.items():
            found = run(state, images, torch.from_numpy(labels))
            out = {k: v for k, v in out.items() if not k.startswith(f'{case}/')}
            out |= {f'{case}/{name}': value for name, value in found.items()}
            print(case, found['losses'][[0, 5, -1]])
    np.savez_compressed(file, **out)


if __name__ == '__main__':
    main()
