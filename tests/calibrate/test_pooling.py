import jax
import numpy as np
import pytest

from jax_prompt.calibrate.pooling import (
    FROM_ONE_BATCH,
    image_pool,
    sample,
    sample_stream,
    window_pool,
)

REDUCE = {'mean': np.mean, 'max': np.max}


def tokens_of(batch=3, num_patches=7, width=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, num_patches, width)).astype(np.float32)


def rows_of(array):
    return {np.asarray(row).round(5).tobytes() for row in array.reshape(-1, array.shape[-1]) + 0.0}


@pytest.mark.parametrize('how', ['mean', 'max'])
@pytest.mark.parametrize('num_prompts', [1, 4, 5, 21])
def test_window_pool_spans_images(how, num_prompts):
    tokens = tokens_of()
    pooled = window_pool(tokens, num_prompts, how)
    window = 21 // num_prompts
    flat = tokens.reshape(21, 4)
    expected = [
        REDUCE[how](flat[i * window : (i + 1) * window], axis=0) for i in range(num_prompts)
    ]
    np.testing.assert_allclose(pooled, expected, rtol=1e-6, atol=1e-7)


def test_window_pool_ignores_the_left_over_tokens():
    tokens = tokens_of()
    changed = tokens.copy()
    changed[-1, -1] += 100  # 21 tokens, 5 windows of 4: the last token is in none
    np.testing.assert_array_equal(window_pool(tokens, 5), window_pool(changed, 5))


@pytest.mark.parametrize('how', ['mean', 'max'])
@pytest.mark.parametrize(
    ('num_patches', 'num_prompts', 'window', 'rest'),
    [(7, 3, 3, 1), (196, 20, 10, 6), (196, 30, 6, 4), (8, 3, 4, 8), (5, 1, 5, 5), (4, 5, 1, 4)],
)
def test_image_pool_draws_from_the_windows_of_each_image(
    how, num_patches, num_prompts, window, rest
):
    tokens = tokens_of(batch=6, num_patches=num_patches)
    pooled = np.stack(
        [
            *(
                REDUCE[how](tokens[:, i * window : (i + 1) * window], axis=1)
                for i in range(num_prompts - 1)
            ),
            REDUCE[how](tokens[:, num_patches - rest :], axis=1),
        ],
        axis=1,
    )
    prompts = np.asarray(image_pool(jax.random.key(0), tokens, num_prompts, how))
    assert prompts.shape == (num_prompts, 4)
    distance = np.abs(prompts[:, None] - pooled.reshape(-1, 4)).max(-1)  # [P, B*P]
    assert (distance.min(1) < 1e-5).all()
    assert len(set(distance.argmin(1))) == num_prompts  # without replacement


def test_image_pool_draws_all_pooled_tokens_alike():
    tokens = tokens_of(batch=4)
    counts = np.zeros(12)
    pooled = np.concatenate([tokens[:, :3].mean(1), tokens[:, 3:6].mean(1), tokens[:, 6]])
    for seed in range(200):
        prompts = np.asarray(image_pool(jax.random.key(seed), tokens, 3))
        counts[np.abs(prompts[:, None] - pooled).max(-1).argmin(1)] += 1
    assert counts.sum() == 600
    assert counts.min() > 25  # 50 expected each, standard deviation 6


def test_image_pool_needs_a_token_for_each_window():
    with pytest.raises(ValueError, match=r'num_prompts=9 with 7 patches.*faithful=False'):
        image_pool(jax.random.key(0), tokens_of(), 9)


def test_sample_draws_distinct_tokens():
    tokens = tokens_of()
    drawn = np.asarray(sample(jax.random.key(0), tokens, 21))
    assert rows_of(drawn) == rows_of(tokens)
    few = np.asarray(sample(jax.random.key(1), tokens, 6))
    assert few.shape == (6, 4)
    assert len(rows_of(few)) == 6
    assert rows_of(few) < rows_of(tokens)


@pytest.mark.parametrize('name', FROM_ONE_BATCH)
@pytest.mark.parametrize('num_prompts', [0, 22])
def test_impossible_number_of_prompts(name, num_prompts):
    with pytest.raises(ValueError, match=f'num_prompts={num_prompts} of 21 tokens.*Lower num_prom'):
        FROM_ONE_BATCH[name](jax.random.key(0), tokens_of(), num_prompts, False)


@pytest.mark.parametrize('name', FROM_ONE_BATCH)
@pytest.mark.parametrize('faithful', [False, True])
def test_table_is_keyed_and_float32(name, faithful):
    tokens = tokens_of().astype(np.float16)
    first, again = (FROM_ONE_BATCH[name](jax.random.key(3), tokens, 4, faithful) for _ in range(2))
    assert first.shape == (4, 4)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    other = FROM_ONE_BATCH[name](jax.random.key(4), tokens, 4, faithful)
    draws = name == 'random' or faithful
    assert np.array_equal(first, other) != draws


def test_unknown_pooling():
    with pytest.raises(ValueError, match="how='median'; allowed: 'mean', 'max'"):
        window_pool(tokens_of(), 2, 'median')


def test_sample_stream_gathers_the_picks_of_each_slot():
    layers = [tokens_of(batch=12, seed=seed) for seed in range(3)]
    picks = np.array([0, 3, 27, 28, 29, 60, 83])  # batches of 28 tokens; none is empty but the last

    def batches():
        for batch in range(4):
            for slot in range(3):
                part = layers[slot][batch * 4 : batch * 4 + 4]
                yield slot, batch, part if batch < 3 else tokens_of(4)

    samples = sample_stream(batches(), picks, [0, 2], 28)
    assert sorted(samples) == [0, 2]
    for slot, values in samples.items():
        np.testing.assert_array_equal(values, layers[slot].reshape(84, 4)[picks])
