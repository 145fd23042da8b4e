"""A warm-up as long as the training is refused: its learning rate would never be reached."""

import numpy as np
import pytest

from configs import tune
from jax_prompt.runs.config import resolve
from jax_prompt.train.optim import Optim, check_warmup, learning_rate


@pytest.mark.parametrize('per_epoch', [False, True])
@pytest.mark.parametrize(('epochs', 'steps'), [(1, 1), (1, 4), (3, 1), (3, 4)])
@pytest.mark.parametrize('warmup', [0.0, 0.5, 1.0, 2.0, 5.0])
def test_refused_where_no_step_has_the_full_rate(warmup, epochs, steps, per_epoch):
    optim = Optim(warmup_epochs=warmup, per_epoch=per_epoch)
    numbers = np.arange(epochs * steps, dtype=np.float32)
    places = np.floor(numbers / steps) if per_epoch else numbers / steps
    # A minimum equal to the peak makes the cosine flat: 1 is the full rate.
    flat = Optim(warmup_epochs=warmup, per_epoch=per_epoch, min_lr=1.0)
    reached = np.asarray(learning_rate(numbers, 1.0, flat, epochs, steps)).max() == 1.0
    assert reached == (places >= warmup).any()
    if reached:
        check_warmup(optim, epochs, steps)
    else:
        with pytest.raises(ValueError, match=r'no step would reach the learning rate'):
            check_warmup(optim, epochs, steps)


def test_configs_are_refused_before_data_is_read():
    base = resolve(tune.get_config()).to_dict()
    with pytest.raises(ValueError, match=r'warmup_epochs is 5 and training lasts 1 epochs'):
        resolve(base | {'epochs': 1, 'optim': {'warmup_epochs': 5.0}})
    with pytest.raises(ValueError, match='warmup_epochs is 2 and training lasts 2 epochs'):
        resolve(base | {'search_epochs': 2, 'optim': {'warmup_epochs': 2.0}})
    assert resolve(base | {'epochs': 1, 'optim': {'warmup_epochs': 0.0}}).epochs == 1
