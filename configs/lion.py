"""LION with the paper's recipe. To tune your own images, use `--config tune:method=lion`.

    jax-prompt train --config lion:backbone=vit_b16_224 \
        --config.data=FOLDER_OR_NPZ --config.weights=FILE --workdir DIR

Wang et al., "LION: Implicit Vision Prompt Tuning" (AAAI 2024), sections 4.3 and 4.5: Adam with a
momentum of .9, batch 64, learning rate 1e-5, tau .4, one layer. The paper names neither epochs nor
a schedule, so this config takes 100 epochs and a cosine. With a learning rate of 1e-5, expect
little before some ten thousand steps. This config documents the recipe; its accuracy has not been
measured. It follows eq. 11 literally (`shrink=1`), except that parameters stop at 0
(docs/deviations.md).
"""

from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.config_file import parse_arg, to_config_dict
from jax_prompt.train.optim import Optim


def get_config(arg=None):
    """Returns the config of `backbone=...`."""
    config = RunConfig(
        data='digits',
        backbone=parse_arg(arg, backbone='vit_micro')['backbone'],
        method='lion',
        lr=1e-5,
        epochs=100,
        batch_size=64,
        search=False,
        transform={'tau': 0.4, 'shrink': 1.0},
        optim=Optim(name='adamw', b1=0.9),
    )
    return to_config_dict(config)
