"""The rows of the table of backbones: which weights are published, where, and in whose naming."""

from dataclasses import replace
from typing import Any

from jax_prompt.backbones.architectures import ARCHITECTURES
from jax_prompt.backbones.entry import Entry
from jax_prompt.core.colour import HALF, IMAGENET_MEAN, IMAGENET_STD

_GOOGLE = 'https://storage.googleapis.com/vit_models'
_FAIR = 'https://dl.fbaipublicfiles.com'
_HUB = 'https://huggingface.co'
_SWIN = 'https://github.com/SwinTransformer/storage/releases/download'

ENTRIES: dict[str, Entry] = {}


def _add(
    arch: str, tag: str, format: str, url: str, imagenet: bool, note: str = '', **config: Any
) -> None:
    name = f'{arch}.{tag}'
    ENTRIES[name] = Entry(
        name=name,
        config=replace(ARCHITECTURES[arch], **config),
        format=format,
        mean=IMAGENET_MEAN if imagenet else HALF,
        std=IMAGENET_STD if imagenet else HALF,
        url=url,
        sha256=None,
        filename=url.rsplit('/', 1)[-1] if url else f'{arch}.safetensors',
        note=note,
    )


for _arch in ('vit_micro', 'mae_micro', 'swin_micro', 'resnet_micro'):
    _note = 'Tiny ImageNet' + (', no labels' if _arch == 'mae_micro' else '')
    _add(_arch, 'tiny_imagenet', 'jax_prompt', '', False, _note)

# AugReg: "How to train your ViT?", arXiv:2106.10270; the files that its authors recommend and timm
# names `augreg_*`. Fine-tuned ViT-Ti comes first since its timm file is the smallest to be had.
_TIMM = 'vit_tiny_patch16_224.augreg_in21k_ft_in1k'
_add(
    'vit_ti16_224',
    'augreg_in21k_ft_in1k',
    'timm',
    f'{_HUB}/timm/{_TIMM}/resolve/main/model.safetensors',
    False,
    'ImageNet-21k, then ImageNet-1k',
)
_AUGREG = {
    'vit_ti16_224': ('Ti_16', 'lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0'),
    'vit_s32_224': ('S_32', 'lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0'),
    'vit_s16_224': ('S_16', 'lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0'),
    'vit_b32_224': ('B_32', 'lr_0.001-aug_medium1-wd_0.03-do_0.0-sd_0.0'),
    'vit_b16_224': ('B_16', 'lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0'),
    'vit_l16_224': ('L_16', 'lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1'),
}
for _arch, (_size, _recipe) in _AUGREG.items():
    _url = f'{_GOOGLE}/augreg/{_size}-i21k-300ep-{_recipe}.npz'
    _add(_arch, 'augreg_in21k', 'google', _url, False, 'ImageNet-21k, AugReg (SSF, SPT)')
_tuned = '--imagenet2012-steps_20k-lr_0.01-res_'
for _arch, _res in (('vit_b16_224', 224), ('vit_b16_384', 384)):
    _url = f'{_GOOGLE}/augreg/B_16-i21k-300ep-{_AUGREG["vit_b16_224"][1]}{_tuned}{_res}.npz'
    _add(_arch, 'augreg_in21k_ft_in1k', 'google', _url, False, 'ImageNet-21k, then ImageNet-1k')

# The original ImageNet-21k weights of arXiv:2010.11929: other weights than AugReg's.
for _arch, _size in (
    ('vit_b16_224', 'B_16'),
    ('vit_b32_224', 'B_32'),
    ('vit_l16_224', 'L_16'),
    ('vit_l32_224', 'L_32'),
    ('vit_h14_224', 'H_14'),
):
    _url = f'{_GOOGLE}/imagenet21k/ViT-{_size}.npz'
    _add(_arch, 'google_in21k', 'google', _url, False, 'ImageNet-21k, the original (VPT)')

# The same weights from the Hugging Face hub, whose implementation has another epsilon.
for _arch, _size in (
    ('vit_b16_224', 'base-patch16'),
    ('vit_b32_224', 'base-patch32'),
    ('vit_l16_224', 'large-patch16'),
    ('vit_l32_224', 'large-patch32'),
    ('vit_h14_224', 'huge-patch14'),
):
    _url = f'{_HUB}/google/vit-{_size}-224-in21k/resolve/main/pytorch_model.bin'
    _add(_arch, 'hf_in21k', 'hf', _url, False, 'google_in21k as Hugging Face', norm_epsilon=1e-12)

# MAE, arXiv:2111.06377: patch tokens are averaged, the final norm comes after (its fine-tuning).
for _arch, _size in (('vit_b16_224', 'base'), ('vit_l16_224', 'large'), ('vit_h14_224', 'huge')):
    _url = f'{_FAIR}/mae/pretrain/mae_pretrain_vit_{_size}.pth'
    _note = 'ImageNet-1k, no labels'
    _add(_arch, 'mae', 'mae', _url, True, _note, pool='mean', norm_after_pool=True)

# MoCo v3, arXiv:2104.02057; its ViT-S has 12 heads. vit-b-300ep.pth.tar holds the same backbone.
_url = f'{_FAIR}/moco-v3/vit-b-300ep/linear-vit-b-300ep.pth.tar'
_add('vit_b16_224', 'moco_v3', 'moco_v3', _url, True, 'ImageNet-1k, no labels')
_url = f'{_FAIR}/moco-v3/vit-s-300ep/linear-vit-s-300ep.pth.tar'
_add('vit_s16_224', 'moco_v3', 'moco_v3', _url, True, 'ImageNet-1k, no labels', num_heads=12)

# DINO, arXiv:2104.14294.
for _arch, _file in (('vit_s16_224', 'deitsmall16'), ('vit_b16_224', 'vitbase16')):
    _url = f'{_FAIR}/dino/dino_{_file}_pretrain/dino_{_file}_pretrain.pth'
    _add(_arch, 'dino', 'dino', _url, True, 'ImageNet-1k, no labels')

# DINOv2, arXiv:2304.07193, and registers, arXiv:2309.16588.
for _size in 'sbl':
    for _arch, _reg in ((f'vit_{_size}14_dinov2', ''), (f'vit_{_size}14_reg4_dinov2', '_reg4')):
        _url = f'{_FAIR}/dinov2/dinov2_vit{_size}14/dinov2_vit{_size}14{_reg}_pretrain.pth'
        _add(_arch, 'lvd142m', 'dinov2', _url, True, 'LVD-142M; set image_size to less')

# Swin, arXiv:2103.14030: the authors' files; the same weights at Hugging Face; torchvision's own.
_SIZES = {'t': 'tiny', 's': 'small', 'b': 'base', 'l': 'large'}
_V8 = 'v1.0.8'  # the release of what was trained on ImageNet-22k later
for _arch in ('swin_t_224', 'swin_s_224', 'swin_b_224', 'swin_l_224', 'swin_b_384', 'swin_l_384'):
    _letter, _pixels = _arch.split('_')[1:]
    _word, _late = _SIZES[_letter], _letter in 'ts'
    _window = f'patch4_window{7 if _pixels == "224" else 12}_{_pixels}'
    _base = f'{_SWIN}/{_V8 if _late else "v1.0.0"}/swin_{_word}_{_window}'
    _add(_arch, 'ms_in22k', 'microsoft', f'{_base}_22k.pth', True, 'ImageNet-22k (VPT: swin_b)')
    _url = f'{_base}_22kto1k{"_finetune" if _late else ""}.pth'
    _add(_arch, 'ms_in22k_ft_in1k', 'microsoft', _url, True, 'ImageNet-22k, then ImageNet-1k')
    if _letter != 'l':
        _url = f'{_SWIN}/v1.0.0/swin_{_word}_{_window}.pth'
        _add(_arch, 'ms_in1k', 'microsoft', _url, True, 'ImageNet-1k')
    _hf = f'{_HUB}/microsoft/swin-{_word}-{_window.replace("_", "-")}'
    _kind = 'in22k' if _letter in 'bl' else 'in1k'
    _url = f'{_hf}{"-in22k" if _kind == "in22k" else ""}/resolve/main/pytorch_model.bin'
    _add(_arch, f'hf_{_kind}', 'hf', _url, True, f'ms_{_kind} as Hugging Face')
for _arch, _file in (
    ('swin_t_224', 'swin_t-704ceda3'),
    ('swin_s_224', 'swin_s-5e29d889'),
    ('swin_b_224', 'swin_b-68c6b09e'),
):
    _url = f'https://download.pytorch.org/models/{_file}.pth'
    _add(
        _arch, 'torchvision_in1k', 'torchvision', _url, True, "ImageNet-1k, torchvision's training"
    )

# ResNet, arXiv:1512.03385, v1.5: torchvision's weights; "ResNet strikes back", arXiv:2110.00476, by
# timm and at Hugging Face; self-supervised ones.
_PYTORCH = 'https://download.pytorch.org/models'
for _arch, _first, _second in (
    ('resnet18', 'f37072fd', ''),
    ('resnet34', 'b627a593', ''),
    ('resnet50', '0676ba61', '11ad3fa6'),
    ('resnet101', '63fe2227', 'cd907fc2'),
    ('resnet152', '394f9c45', 'f82ba261'),
):
    for _tag, _hash in (('torchvision_in1k', _first), ('torchvision_in1k_v2', _second)):
        _url = f'{_PYTORCH}/{_arch}-{_hash}.pth'
        if _hash:
            _add(_arch, _tag, 'torchvision', _url, True, 'ImageNet-1k')
    _url = f'{_HUB}/timm/{_arch}.a1_in1k/resolve/main/model.safetensors'
    _add(_arch, 'a1_in1k', 'torchvision', _url, True, "ImageNet-1k, timm's training")
    _url = f'{_HUB}/microsoft/{_arch.replace("resnet", "resnet-")}/resolve/main/pytorch_model.bin'
    _add(_arch, 'hf_in1k', 'hf', _url, True, 'ImageNet-1k, at Hugging Face')
for _tag, _path in (
    ('moco_v3', 'moco-v3/r-50-1000ep/r-50-1000ep.pth.tar'),
    ('dino', 'dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth'),
):
    _note = 'ImageNet-1k, no labels'
    _add('resnet50', _tag, 'torchvision', f'{_FAIR}/{_path}', True, _note)

# ConvNeXt, arXiv:2201.03545: the authors' files; the same weights at Hugging Face and by timm;
# torchvision's own.
for _arch, _word, _hash in (
    ('convnext_t_224', 'tiny', '983f1562'),
    ('convnext_s_224', 'small', '0c510722'),
    ('convnext_b_224', 'base', '6075fbad'),
):
    _base = f'{_FAIR}/convnext/convnext_{_word}'
    _note = 'ImageNet-22k, then ImageNet-1k'
    _add(_arch, 'fb_in22k', 'facebook', f'{_base}_22k_224.pth', True, 'ImageNet-22k (VPT: B)')
    _add(_arch, 'fb_in22k_ft_in1k', 'facebook', f'{_base}_22k_1k_224.pth', True, _note)
    _add(_arch, 'fb_in1k', 'facebook', f'{_base}_1k_224_ema.pth', True, 'ImageNet-1k')
    _url = f'{_HUB}/timm/convnext_{_word}.fb_in22k/resolve/main/model.safetensors'
    _add(_arch, 'timm_in22k', 'timm', _url, True, 'fb_in22k by timm')
    _url = f'{_HUB}/facebook/convnext-{_word}-224/resolve/main/pytorch_model.bin'
    _add(_arch, 'hf_in1k', 'hf', _url, True, 'fb_in1k at Hugging Face', pool_epsilon=1e-12)
    _url = f'{_PYTORCH}/convnext_{_word}-{_hash}.pth'
    _add(
        _arch, 'torchvision_in1k', 'torchvision', _url, True, "ImageNet-1k, torchvision's training"
    )
