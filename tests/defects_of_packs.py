"""The deliberate defects of packs, fetched weights and the Python interface (`mutants.py`)."""

from defects import Mutant

MUTANTS = (
    Mutant(
        'pack-checksum-ignored',
        'weights/sealed.py',
        'if hash_tree(leaves, info) != metadata[_SUM]:',
        'if not metadata[_SUM]:',
        ('packs/test_hostile.py',),
    ),
    Mutant(
        'pack-on-another-backbone',
        'runs/backbone.py',
        'if content and backbone.content != content:',
        'if content and not backbone.content:',
        ('packs/test_packs.py',),
    ),
    Mutant(
        'frozen-prompts-left-out',
        'packs/load.py',
        'frozen = frozen | _filled(held, flat, jnp.asarray)',
        'frozen = frozen | held',
        ('packs/test_packs.py',),
    ),
    Mutant(
        'resumed-without-asking',
        'weights/transfer.py',
        "'If-Range': state['mark']",
        "'X-Range': state['mark']",
        ('weights/test_fetch.py',),
    ),
    Mutant(
        'token-for-everyone',
        'weights/fetch.py',
        "    if not url.startswith(f'{_HUB}/'):",
        "    if not url.startswith('h'):",
        ('weights/test_fetch.py',),
    ),
    Mutant(
        'fetched-file-not-compared',
        'weights/cache.py',
        '(record.size, record.sha256) != (size, digest)',
        'record.size != size',
        ('weights/test_fetch.py',),
    ),
    # api
    Mutant(
        'floats-rounded-down',
        'data/handed.py',
        'np.rint(values * 255)',
        'np.floor(values * 255)',
        ('test_api.py',),
    ),
    Mutant(
        'numbers-by-the-alphabet',
        'data/handed.py',
        'sorted(unique, key=int)',
        'sorted(unique)',
        ('test_api.py',),
    ),
    Mutant(
        'settings-without-their-neighbours',
        'api.py',
        'out[name] = _merged(out[name], value)',
        'out[name] = dict(value)',
        ('test_api.py',),
    ),
    # pretraining
    Mutant(
        'encoder-frozen',
        'tuners/decoder.py',
        'class MaskedDecoder(Whole)',
        'class MaskedDecoder(Tuner)',
        ('train/test_masked.py',),
    ),
)
