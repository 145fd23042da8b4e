"""How the sources of ViT weights name them: tables of rules.

| format    | files |
|-----------|-------|
| timm      | timm's `.safetensors`, `.bin`, `.pth`, DeiT, and their fine-tuned descendants |
| hf        | Hugging Face ViTModel, ViTForImageClassification, ViTMAE, Dinov2 (with registers) |
| google    | `.npz` of the original ViT and of AugReg; big_vision's too |
| mae       | facebookresearch/mae, with or without its decoder |
| moco_v3   | facebookresearch/moco-v3: `module.base_encoder.` (pretraining), `module.` (linear) |
| dino      | facebookresearch/dino, backbones and full checkpoints |
| dinov2    | facebookresearch/dinov2, with registers or without, blocks in chunks or not |
| jax_prompt| files that this package wrote |
"""

from collections.abc import Mapping

from jax_prompt.weights.rules import Rule, Table, merge_first, merge_last, row
from jax_prompt.weights.torch_layers import linear, norm, patch_conv

_BLOCK = r'blocks\.(?:\d+\.)?(?P<layer>\d+)\.'  # DINOv2 may number chunks before blocks
_BLOCKS = (
    Rule('cls_token', 'cls_token'),
    Rule('pos_embed', 'pos_embed'),
    Rule('reg_token|register_tokens', 'register_tokens', row),
    *patch_conv(r'patch_embed\.proj'),
    *norm(_BLOCK + 'norm1', 'block_{layer}/ln1'),
    *linear(_BLOCK + r'attn\.qkv', 'block_{layer}/attn/qkv'),
    *linear(_BLOCK + r'attn\.proj', 'block_{layer}/attn/proj'),
    Rule(_BLOCK + r'ls1\.gamma', 'block_{layer}/ls1/scale'),
    *norm(_BLOCK + 'norm2', 'block_{layer}/ln2'),
    *linear(_BLOCK + r'mlp\.fc1', 'block_{layer}/mlp/fc1'),
    *linear(_BLOCK + r'mlp\.fc2', 'block_{layer}/mlp/fc2'),
    Rule(_BLOCK + r'ls2\.gamma', 'block_{layer}/ls2/scale'),
    *norm('(?:norm|fc_norm)', 'norm'),
)
_HEADS = {
    r'(head|head_dist|fc|classifier|last_layer)(\..*)?': 'classifier head',
    r'pre_logits\..*': 'representation layer of the classifier',
    r'mask_token': 'token for masked patches, used in pretraining only',
}
_REFUSALS = {
    r'layers\.\d+\.blocks\..*': 'a Swin',
    r'dist_token': 'a distilled DeiT with a distillation token',
    r'.*\bmlp\.(w12|w3|w1|w2|weights_in|weights_out|fc1_g|fc1_x)\b.*': 'a ViT with SwiGLU MLPs',
    r'.*\b(q_norm|k_norm)\b.*': 'a ViT that normalises queries and keys',
    r'.*\b(gamma_1|relative_position_bias_table|relative_position_index|q_bias)\b.*': 'a BEiT',
    r'.*\b(rope_embed|storage_tokens|rope)\b.*': 'a ViT with rotary positions',
    r'norm_pre\..*|ln_pre\..*': 'a CLIP tower with a norm before the blocks',
    r'attn_pool\..*|MAPHead_0/.*': 'a ViT with attention pooling',
    r'patch_embed\.(backbone|norm|conv)\b.*|conv_root/.*|block\d/unit.*': 'a hybrid ViT',
}

_HF = r'encoder\.layer\.(?P<layer>\d+)\.'
_HF_RULES = (
    Rule(r'embeddings\.cls_token', 'cls_token'),
    Rule(r'embeddings\.position_embeddings', 'pos_embed'),
    Rule(r'embeddings\.register_tokens', 'register_tokens', row),
    *patch_conv(r'embeddings\.patch_embeddings\.projection'),
    *norm(_HF + '(?:layernorm_before|norm1)', 'block_{layer}/ln1'),
    *linear(_HF + r'attention\.attention\.query', 'block_{layer}/attn/qkv', (0, 3)),
    *linear(_HF + r'attention\.attention\.key', 'block_{layer}/attn/qkv', (1, 3)),
    *linear(_HF + r'attention\.attention\.value', 'block_{layer}/attn/qkv', (2, 3)),
    *linear(_HF + r'attention\.output\.dense', 'block_{layer}/attn/proj'),
    Rule(_HF + r'layer_scale1\.lambda1', 'block_{layer}/ls1/scale'),
    *norm(_HF + '(?:layernorm_after|norm2)', 'block_{layer}/ln2'),
    *linear(_HF + r'(?:intermediate\.dense|mlp\.fc1)', 'block_{layer}/mlp/fc1'),
    *linear(_HF + r'(?:output\.dense|mlp\.fc2)', 'block_{layer}/mlp/fc2'),
    Rule(_HF + r'layer_scale2\.lambda1', 'block_{layer}/ls2/scale'),
    *norm('layernorm', 'norm'),
)

# The numbers differ between the original code (1, 3; 0, 2) and big_vision (0, 0; 0, 1).
_FLAX = r'Transformer/encoderblock_(?P<layer>\d+)/'
_ATTN = _FLAX + r'MultiHeadDotProductAttention_[01]/'
_MLP = _FLAX + r'MlpBlock_[03]/'
_GOOGLE_RULES = (
    Rule('cls', 'cls_token'),
    Rule(r'Transformer/posembed_input/pos_embedding|pos_embedding', 'pos_embed'),
    Rule('embedding/kernel', 'patch_embed/kernel'),
    Rule('embedding/bias', 'patch_embed/bias'),
    Rule(_FLAX + r'LayerNorm_0/(?P<leaf>scale|bias)', 'block_{layer}/ln1/{leaf}'),
    *(
        Rule(
            _ATTN + f'{name}/(?P<leaf>kernel|bias)',
            'block_{layer}/attn/qkv/{leaf}',
            merge_last,
            part,
        )
        for name, part in (('query', (0, 3)), ('key', (1, 3)), ('value', (2, 3)))
    ),
    Rule(_ATTN + 'out/kernel', 'block_{layer}/attn/proj/kernel', merge_first),
    Rule(_ATTN + 'out/bias', 'block_{layer}/attn/proj/bias'),
    Rule(_FLAX + r'LayerNorm_[12]/(?P<leaf>scale|bias)', 'block_{layer}/ln2/{leaf}'),
    Rule(_MLP + r'Dense_0/(?P<leaf>kernel|bias)', 'block_{layer}/mlp/fc1/{leaf}'),
    Rule(_MLP + r'Dense_1/(?P<leaf>kernel|bias)', 'block_{layer}/mlp/fc2/{leaf}'),
    Rule(r'Transformer/encoder_norm/(?P<leaf>scale|bias)', 'norm/{leaf}'),
)

_ANCHOR = 'patch_embed.proj.weight'
_TABLES = (
    Table('jax_prompt', 'patch_embed/kernel', ('',), (Rule('(?P<path>.+)', '{path}'),)),
    Table(
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
    ),
    Table(
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
        {**_REFUSALS, r'embeddings\.distillation_token': 'a distilled DeiT'},
    ),
    Table(
        'dinov2',
        _ANCHOR,
        ('', 'backbone.', 'module.backbone.'),
        _BLOCKS,
        {**_HEADS, r'(module\.)?(dino_head|ibot_head)\..*': 'projection head of pretraining'},
        _REFUSALS,
        signs=(
            ('register_tokens',),
            (r'(?:.*\.)?blocks\.\d+\.\d+\..*',),
            (r'(?:.*\.)?mask_token', r'(?:.*\.)?blocks\.0\.ls1\.gamma'),
        ),
    ),
    Table(
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
    Table(
        'dino',
        _ANCHOR,
        ('backbone.', 'module.backbone.', ''),
        _BLOCKS,
        {**_HEADS, r'module\.head\..*': 'projection head of pretraining'},
        _REFUSALS,
        signs=((r'(module\.)?backbone\.cls_token',),),
        containers=('teacher', 'student'),
    ),
    Table(
        'mae',
        _ANCHOR,
        ('',),
        _BLOCKS,
        {**_HEADS, r'decoder_.*': 'decoder, used in pretraining only'},
        _REFUSALS,
        signs=((r'decoder_embed\.weight',),),
        containers=('model',),
        absent=(r'(?:head|fc_norm|head_dist)\..*',),
    ),
    Table('timm', _ANCHOR, ('', 'module.', 'model.', 'backbone.'), _BLOCKS, _HEADS, _REFUSALS),
)
FORMATS: Mapping[str, Table] = {table.name: table for table in _TABLES}
