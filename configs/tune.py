"""Tune a pretrained backbone to your own images.

    jax-prompt train --config tune:method=spt_deep,backbone=vit_ti16_224.augreg_in21k_ft_in1k \
        --config.data=FOLDER_OR_NPZ --config.weights=FILE --workdir DIR

The data is a folder of class subfolders (with or without train / val / test above them), a packed
.npz, or 'tfds:NAME'. The run chooses the learning rate among `search_lrs` on the validation split.
Then it trains on train + val and tests once.
"""

from jax_prompt.methods import get_method
from jax_prompt.runs.config_file import parse_arg, to_config_dict
from jax_prompt.runs.recipes import own_images


def get_config(arg=None):
    """Returns the config of `method=...,backbone=...`."""
    chosen = parse_arg(arg, method='spt_deep', backbone='vit_micro')
    method = get_method(chosen['method']).name
    return to_config_dict(own_images('digits', method, chosen['backbone']))
