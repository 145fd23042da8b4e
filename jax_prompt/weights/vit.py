"""How the sources of ViT weights name them: tables of rules.

| format    | files |
|-----------|-------|
| timm      | timm's `.safetensors`, `.bin`, `.pth`, DeiT, and their fine-tuned descendants |
| torchvision | torchvision's vit_b_16 and its like |
| hf        | Hugging Face ViTModel, ViTForImageClassification, ViTMAE, Dinov2 (with registers), |
|           | under the names of their files and under those that transformers 5 has in memory |
| google    | `.npz` of the original ViT and of AugReg; big_vision's too, scanned or not |
| mae       | facebookresearch/mae, with or without its decoder |
| moco_v3   | facebookresearch/moco-v3: `module.base_encoder.` (pretraining), `module.` (linear) |
| dino      | facebookresearch/dino, backbones and full checkpoints; iBOT's |
| dinov2    | facebookresearch/dinov2, with registers or without, blocks in chunks or not |
| jax_prompt| files that this package wrote |
"""

from collections.abc import Mapping

from jax_prompt.weights.tables import (
    NameRule,
    NameTable,
    Reading,
    Refusal,
    merge_first,
    merge_last,
    own_table,
    row,
    transpose,
)
from jax_prompt.weights.torch_layers import linear, norm, patch_conv

_BLOCK = r'blocks\.(?:\d+\.)?(?P<layer>\d+)\.'  # DINOv2 may number chunks before blocks
_BLOCKS = (
    NameRule('cls_token', 'cls_token'),
    NameRule('pos_embed', 'pos_embed'),
    NameRule('reg_token|register_tokens', 'register_tokens', row),
    *patch_conv(r'patch_embed\.proj'),
    *norm(_BLOCK + 'norm1', 'block_{layer}/ln1'),
    *linear(_BLOCK + r'attn\.qkv', 'block_{layer}/attn/qkv'),
    *linear(_BLOCK + r'attn\.proj', 'block_{layer}/attn/proj'),
    NameRule(_BLOCK + r'ls1\.gamma', 'block_{layer}/ls1/scale'),
    *norm(_BLOCK + 'norm2', 'block_{layer}/ln2'),
    *linear(_BLOCK + r'mlp\.fc1', 'block_{layer}/mlp/fc1'),
    *linear(_BLOCK + r'mlp\.fc2', 'block_{layer}/mlp/fc2'),
    NameRule(_BLOCK + r'ls2\.gamma', 'block_{layer}/ls2/scale'),
    *norm('(?:norm|fc_norm)', 'norm'),
)
_HEADS = {
    r'(head|head_dist|fc|classifier|last_layer)(\..*)?': 'classifier head',
    r'pre_logits\..*': 'representation layer of the classifier',
    r'mask_token|masked_embed': 'token for masked patches, used in pretraining only',
    r'projector(\..*)?|predictor(\..*)?|momentum_.*|.*queue(_ptr)?': 'used in pretraining only',
}
_SCALED = r'(?:.*\.)?blocks\.(?:\d+\.)?0\.ls1\.gamma'
# The first that fits is named, so networks with more signs come first.
_REFUSALS = (
    Refusal('a Swin', (r'layers\.\d+\.blocks\..*',)),
    Refusal('a distilled DeiT with a distillation token', (r'.*dist(illation)?_token',)),
    Refusal('a CaiT', (r'blocks_token_only\..*',)),
    Refusal('a CaiT', (r'.*\.attn\.proj_[lw]\..*',)),
    Refusal('a DINOv3', (r'(.*\.)?(storage_tokens|attn\.qkv\.bias_mask)',)),
    Refusal('a ViT with SwiGLU MLPs and rotary positions (EVA-02)', (r'.*\bmlp\.fc1_g\..*',)),
    Refusal(
        'a ViT with rotary positions (EVA-02)', (r'.*\battn\.q_proj\..*', r'(.*\.)?patch_embed\..*')
    ),
    Refusal('a ViT with rotary positions (EVA-02)', (r'.*\brope\b.*freqs.*',)),
    Refusal('a ViT with rotary positions', (r'.*\b(rope_embed|rope)\b.*',)),
    Refusal('a ViT with rotary positions (DINOv3 by timm)', (r'.*\bgamma_1', 'reg_token')),
    Refusal('a BEiT', (r'.*\b(relative_position_bias_table|relative_position_index)\b.*',)),
    Refusal('a BEiT', (r'.*\bgamma_1\b.*', r'.*\bq_bias\b.*')),
    Refusal('an EVA or EVA-02 (biases of queries and values alone)', (r'.*\bq_bias\b.*',)),
    Refusal(
        'a ViT with layer scales under the names of BEiT (DeiT-III as its authors have it, or '
        'a BEiT)',
        (r'.*\bgamma_1\b.*',),
    ),
    Refusal(
        'a ViT with SwiGLU MLPs', (r'.*\bmlp\.(w12|w3|w1|w2|weights_in|weights_out|fc1_x)\b.*',)
    ),
    Refusal('a ViT that normalises queries and keys', (r'.*\b(q_norm|k_norm)\b.*',)),
    Refusal('a CLIP tower with a norm before the blocks', (r'norm_pre\..*|ln_pre\..*',)),
    Refusal('a ViT with attention pooling', (r'attn_pool\..*|MAPHead_0/.*',)),
    Refusal('a ViT with relative positions', (r'.*\b(rel_pos_h|shared_rel_pos|rel_pos)\b.*',)),
    Refusal(
        'a hybrid ViT', (r'patch_embed\.(backbone|norm|conv)\b.*|conv_root/.*|block\d/unit.*',)
    ),
)
# What lacks even the first layer of every format.
STRANGERS = (
    *_REFUSALS,
    Refusal('a DINOv3', (r'(.*\.)?embeddings\.patch_embeddings\.weight', r'.*register_tokens')),
    Refusal('an XCiT', (r'patch_embed\.proj\.0\.0\.weight',)),
    Refusal('a CLIP tower', (r'(visual\.)?class_embedding|visual\..*|vision_model\..*',)),
    Refusal('a ResNet', (r'(.*\.)?layer1\.0\.conv1\.weight',)),
    Refusal('a network of convolutions', (r'(.*\.)?(stem|conv_stem)\..*',)),
)

# On disk and, from transformers 5 on, in memory.
_HF = r'(?:encoder\.layer|layers)\.(?P<layer>\d+)\.'
_HF_RULES = (
    NameRule(r'embeddings\.cls_token', 'cls_token'),
    NameRule(r'embeddings\.position_embeddings', 'pos_embed'),
    NameRule(r'embeddings\.register_tokens', 'register_tokens', row),
    *patch_conv(r'embeddings\.patch_embeddings\.projection'),
    *norm(_HF + '(?:layernorm_before|norm1)', 'block_{layer}/ln1'),
    *linear(_HF + r'attention\.(?:attention\.query|q_proj)', 'block_{layer}/attn/qkv', (0, 3)),
    *linear(_HF + r'attention\.(?:attention\.key|k_proj)', 'block_{layer}/attn/qkv', (1, 3)),
    *linear(_HF + r'attention\.(?:attention\.value|v_proj)', 'block_{layer}/attn/qkv', (2, 3)),
    *linear(_HF + r'attention\.(?:output\.dense|o_proj)', 'block_{layer}/attn/proj'),
    NameRule(_HF + r'layer_scale1\.lambda1', 'block_{layer}/ls1/scale'),
    *norm(_HF + '(?:layernorm_after|norm2)', 'block_{layer}/ln2'),
    *linear(_HF + r'(?:intermediate\.dense|mlp\.fc1)', 'block_{layer}/mlp/fc1'),
    *linear(_HF + r'(?:output\.dense|mlp\.fc2)', 'block_{layer}/mlp/fc2'),
    NameRule(_HF + r'layer_scale2\.lambda1', 'block_{layer}/ls2/scale'),
    *norm('layernorm', 'norm'),
)

# The numbers differ between the original code (1, 3; 0, 2) and big_vision (0, 0; 0, 1).
_FLAX = r'Transformer/encoderblock_(?P<layer>\d+)/'
_ATTN = _FLAX + r'MultiHeadDotProductAttention_[01]/'
_MLP = _FLAX + r'MlpBlock_[03]/'
_GOOGLE_RULES = (
    NameRule('cls', 'cls_token'),
    NameRule(r'Transformer/posembed_input/pos_embedding|pos_embedding', 'pos_embed'),
    NameRule('embedding/kernel', 'patch_embed/kernel'),
    NameRule('embedding/bias', 'patch_embed/bias'),
    NameRule(_FLAX + r'LayerNorm_0/(?P<leaf>scale|bias)', 'block_{layer}/ln1/{leaf}'),
    *(
        NameRule(
            _ATTN + f'{name}/(?P<leaf>kernel|bias)',
            'block_{layer}/attn/qkv/{leaf}',
            merge_last,
            part,
        )
        for name, part in (('query', (0, 3)), ('key', (1, 3)), ('value', (2, 3)))
    ),
    NameRule(_ATTN + 'out/kernel', 'block_{layer}/attn/proj/kernel', merge_first),
    NameRule(_ATTN + 'out/bias', 'block_{layer}/attn/proj/bias'),
    NameRule(_FLAX + r'LayerNorm_[12]/(?P<leaf>scale|bias)', 'block_{layer}/ln2/{leaf}'),
    NameRule(_MLP + r'Dense_0/(?P<leaf>kernel|bias)', 'block_{layer}/mlp/fc1/{leaf}'),
    NameRule(_MLP + r'Dense_1/(?P<leaf>kernel|bias)', 'block_{layer}/mlp/fc2/{leaf}'),
    NameRule(r'Transformer/encoder_norm/(?P<leaf>scale|bias)', 'norm/{leaf}'),
)

_TV = r'encoder\.layers\.encoder_layer_(?P<layer>\d+)\.'
_TORCHVISION = (
    NameRule('class_token', 'cls_token'),
    NameRule(r'encoder\.pos_embedding', 'pos_embed'),
    *patch_conv('conv_proj'),
    *norm(_TV + 'ln_1', 'block_{layer}/ln1'),
    NameRule(_TV + r'self_attention\.in_proj_weight', 'block_{layer}/attn/qkv/kernel', transpose),
    NameRule(_TV + r'self_attention\.in_proj_bias', 'block_{layer}/attn/qkv/bias'),
    *linear(_TV + r'self_attention\.out_proj', 'block_{layer}/attn/proj'),
    *norm(_TV + 'ln_2', 'block_{layer}/ln2'),
    *linear(_TV + r'mlp\.(?:0|linear_1)', 'block_{layer}/mlp/fc1'),
    *linear(_TV + r'mlp\.(?:3|linear_2)', 'block_{layer}/mlp/fc2'),
    *norm(r'encoder\.ln', 'norm'),
)

_ANCHOR = 'patch_embed.proj.weight'
_HEAD = r'(?:.*\.)?(?:head|fc_norm|head_dist)\.(?:weight|bias)'
_AUTOENCODER = {'pool': 'mean', 'norm_after_pool': True}  # as MAE's fine-tuning does
_DECODER, _LAMBDA = r'decoder\..*', r'.*\blayer_scale1\..*'
_TABLES = (
    own_table('patch_embed/kernel', Reading('AugReg', imagenet=False), Reading('others')),
    NameTable(
        'google',
        'embedding/kernel',
        ('', 'opt/target/', 'params/img/', 'params/'),
        _GOOGLE_RULES,
        {
            r'head/.*': 'classifier head',
            r'pre_logits/.*': 'representation layer of the classifier',
            r'opt/(?!target/).*|step': 'state of the optimizer',
            r'params/(txt/.*|t|b)': 'text tower',
        },
        _REFUSALS,
        readings=(Reading('AugReg', imagenet=False),),
    ),
    NameTable(
        'torchvision',
        'conv_proj.weight',
        ('', 'module.', 'backbone.', 'model.'),
        _TORCHVISION,
        {r'heads\..*': 'classifier head'},
        _REFUSALS,
    ),
    NameTable(
        'hf',
        'embeddings.patch_embeddings.projection.weight',
        ('', 'vit.', 'dinov2.', 'dinov2_with_registers.'),
        _HF_RULES,
        {
            **_HEADS,
            r'embeddings\.mask_token': 'token for masked patches, used in pretraining only',
            r'pooler\..*': "pooler of Hugging Face's classifier",
            r'decoder\..*': 'decoder, used in pretraining only',
        },
        (Refusal('a BEiT', (r'.*\blambda_1',)), *_REFUSALS),
        readings=(
            Reading('ViT', imagenet=False, absent=(_DECODER, _LAMBDA)),
            Reading('DINO and others', absent=(_DECODER,)),
            Reading('MAE', fields=_AUTOENCODER, needs=(_DECODER,)),
        ),
    ),
    NameTable(
        'dinov2',
        _ANCHOR,
        ('', 'backbone.', 'module.backbone.'),
        _BLOCKS,
        {**_HEADS, r'(module\.)?(dino_head|ibot_head)\..*': 'projection head of pretraining'},
        _REFUSALS,
        signs=(
            ('register_tokens',),
            (r'(?:.*\.)?blocks\.\d+\.\d+\..*',),
            (r'(?:.*\.)?mask_token', _SCALED),
        ),
        needs=(_SCALED,),
    ),
    NameTable(
        'moco_v3',
        _ANCHOR,
        ('module.base_encoder.', 'module.'),
        _BLOCKS,
        {
            **_HEADS,
            r'module\.momentum_encoder\..*': 'momentum encoder, used in pretraining only',
            r'module\.predictor\..*': 'predictor, used in pretraining only',
        },
        _REFUSALS,
        signs=((r'module\.base_encoder\..*',),),
    ),
    NameTable(
        'dino',
        _ANCHOR,
        ('backbone.', 'module.backbone.', ''),
        _BLOCKS,
        {**_HEADS, r'module\.head\..*': 'projection head of pretraining'},
        _REFUSALS,
        signs=(
            (r'(module\.)?backbone\.cls_token', r'(module\.)?head\.mlp\..*'),
            (r'(?:.*\.)?masked_embed',),
        ),
        containers=('teacher', 'student'),
        absent=(_HEAD, _SCALED),
    ),
    NameTable(
        'mae',
        _ANCHOR,
        ('',),
        _BLOCKS,
        {**_HEADS, r'decoder_.*': 'decoder, used in pretraining only'},
        _REFUSALS,
        signs=((r'decoder_embed\.weight',),),
        absent=(_HEAD, _SCALED),
        readings=(Reading('MAE', fields=_AUTOENCODER),),
    ),
    NameTable(
        'timm',
        _ANCHOR,
        ('', 'module.', 'model.', 'backbone.', 'encoder.', 'module.backbone.'),
        _BLOCKS,
        _HEADS,
        _REFUSALS,
        readings=(Reading('AugReg', imagenet=False, absent=(_SCALED,)), Reading('DeiT')),
    ),
)
FORMATS: Mapping[str, NameTable] = {table.name: table for table in _TABLES}
