"""Mixed batches: each image gets what its own task's run gives, and nothing compiles in between."""

import jax
import numpy as np
import pytest
from small_serve import own_logits, packed, tuned

from jax_prompt.evals.classify import NonFiniteLogits
from jax_prompt.methods import METHODS
from jax_prompt.packs.file import Pack
from jax_prompt.serve import Backbone

OTHERS = ('full', 'retrain', 'partial', 'bias', 'spt_shallow', 'spt_deep', 'dvpt_spt')
SMALL = {'lion': (('channels', 4), ('width', 8)), 'mlp': (('layers', 2),)}
WAYS = [
    *((name, SMALL.get(name, ())) for name in METHODS if name not in OTHERS),
    ('lion', (('image_block', False), ('width', 8))),
    ('vpt_shallow+lora', ()),
]


@pytest.fixture
def lowered():
    """Counts the functions that JAX lowers anew, which comes before compiling."""
    seen: list[str] = []

    def listen(event, seconds, **_):
        if event.endswith('jaxpr_to_mlir_module_duration'):
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


def close(answer, wanted):
    np.testing.assert_allclose(answer.logits, wanted, rtol=0, atol=1e-5)


def of(backbone, shown, *names):
    return backbone.answer(shown, list(enumerate(names)))


@pytest.mark.parametrize(('method', 'options'), WAYS)
def test_each_method_gives_in_a_mixed_batch_what_it_gives_alone(method, options, shown):
    backbone = Backbone('vit_micro', max_batch=4, capacity=2)
    for seed in range(2):
        backbone.add(f't{seed}', packed(method, seed, tuner=options))
    asked = [(0, 't1'), (1, 't0'), (2, 't1'), (0, 't0')]
    answers = backbone.answer(shown[:3], asked)
    wanted = [own_logits(tuned(method, seed, tuner=options), shown[:3]) for seed in range(2)]
    assert not np.allclose(wanted[0], wanted[1], atol=1e-3)
    for (image, name), answer in zip(asked, answers, strict=True):
        close(answer, wanted[int(name[1])][image])
    assert len(backbone._groups) == 1


def test_unlike_kinds_and_lengths_and_classes_in_one_call(shown):
    """Heads of 2 and 5 classes and 1 to 3 prompts share a program; linear has one of its own."""
    runs = {
        'few': ('vpt_deep', 0, 5),
        'many': ('vpt_deep', 1, 2),
        'one': ('vpt_deep', 2, 3),
        'plain': ('linear', 0, 4),
    }
    prompts = {'few': 1, 'many': 3, 'one': 2}
    backbone = Backbone('vit_micro', max_batch=4, capacity=4)
    for name, key in runs.items():
        backbone.add(name, packed(*key, num_prompts=prompts.get(name, 2)))
    names = ['one', 'plain', 'few', 'many', 'one']
    for image, answer in enumerate(of(backbone, shown, *names)):
        run = tuned(*runs[names[image]], num_prompts=prompts.get(names[image], 2))
        close(answer, own_logits(run, shown)[image])
        assert answer.task.classes == tuple(run.classes)
    assert len(backbone._groups) == 2


def test_packs_come_and_go_without_a_compilation(shown, lowered):
    backbone = Backbone('vit_micro', max_batch=2, capacity=4)
    packs = [packed('vpt_deep', seed, 2 + seed % 2) for seed in range(5)]
    backbone.add('a', packs[0])
    backbone.add('b', packs[1])
    backbone.warm()
    lowered.clear()
    backbone.add('c', packs[2])
    before = of(backbone, shown, 'c', 'a', 'b')[0]
    backbone.add('c', packs[3])
    after = of(backbone, shown, 'a', 'c')[1]
    backbone.remove('a')
    backbone.add('d', packs[4])
    of(backbone, shown, 'd', 'b', 'c')
    assert not lowered
    assert before.task.sha256 != after.task.sha256
    close(before, own_logits(tuned('vpt_deep', 2, 2), shown)[0])
    close(after, own_logits(tuned('vpt_deep', 3, 3), shown)[1])
    with pytest.raises(KeyError, match='a'):
        backbone.predict(shown[:1], 'a')
    backbone.add('e', packs[0])
    backbone.add('f', packs[1])  # the fifth
    assert lowered, 'a doubled capacity compiles, so that this test can fail'


def test_a_task_changes_its_kind(shown):
    backbone = Backbone('vit_micro', max_batch=2, capacity=1)
    backbone.add('a', packed('vpt_deep', 0))
    backbone.add('a', packed('linear', 1))
    close(of(backbone, shown, 'a')[0], own_logits(tuned('linear', 1), shown)[0])
    assert backbone.resident() == ['a'] and backbone.tasks['a'].method == 'linear'


def test_the_least_used_packs_go_to_the_host(shown):
    row = 4 * sum(x.size for x in jax.tree.leaves(packed('vpt_deep', 0).tree))
    backbone = Backbone('vit_micro', max_batch=4, capacity=4, budget_mb=2.5 * row / 1e6)
    for seed in range(4):
        backbone.add(f't{seed}', packed('vpt_deep', seed))
    assert backbone.resident() == ['t2', 't3']
    assert backbone.device_bytes['packs'] == 2 * row
    names = ['t2', 't0', 't3', 't1', 't0']
    for image, answer in enumerate(of(backbone, shown, *names)):
        run = tuned('vpt_deep', int(names[image][1]))
        close(answer, own_logits(run, shown)[image])
    of(backbone, shown, 't1')
    of(backbone, shown, 't0', 't2')
    assert backbone.resident() == ['t0', 't2']
    assert sorted(backbone.tasks) == ['t0', 't1', 't2', 't3']


def test_tasks_share_the_features_of_an_image(shown, monkeypatch):
    from jax_prompt.serve import backbone as module

    computed = []

    def counted(kind, frozen, images, own=module.shared_features):
        computed.append(len(images))
        return own(kind, frozen, images)

    monkeypatch.setattr(module, 'shared_features', counted)
    backbone = Backbone('vit_micro', max_batch=4)
    half = (('image_block', False), ('width', 8))
    backbone.add('linear', packed('linear', 0))
    backbone.add('mlp', packed('mlp', 0, tuner=(('layers', 2),)))
    backbone.add('p2', packed('lion', 0, tuner=half))
    together = backbone.predict(shown[:2], [('linear', 'mlp', 'p2'), ('mlp', 'linear')])
    assert computed == [2], 'one device call for what five answers need'
    wanted = jax.nn.softmax(own_logits(tuned('lion', 0, tuner=half), shown[:2]))
    np.testing.assert_allclose(together[0][2], wanted[0], atol=1e-5)
    np.testing.assert_allclose(
        together[1][1], jax.nn.softmax(own_logits(tuned('linear', 0), shown[:2]))[1], atol=1e-5
    )


def test_other_image_sizes_share_what_is_equal(shown):
    backbone = Backbone('vit_micro', max_batch=1)
    backbone.add('small', packed('linear', 0))
    alone = backbone.device_bytes['backbone']
    backbone.add('large', packed('vpt_deep', 0, image_size=32))
    positions = 128 * (1 + 8 * 8) * 4
    assert alone < backbone.device_bytes['backbone'] <= alone + positions
    image = np.tile(shown[0], (2, 2, 1))
    answers = backbone.answer([image, shown[1]], [(0, 'large'), (1, 'small')])
    close(answers[0], own_logits(tuned('vpt_deep', 0, image_size=32), image[None])[0])
    close(answers[1], own_logits(tuned('linear', 0), shown)[1])


def test_what_is_refused(shown):
    backbone = Backbone('vit_micro')
    with pytest.raises(ValueError, match='t: method bias changes weights of the backbone'):
        backbone.add('t', packed('bias', 0))
    good = packed('linear', 0)
    other = Pack(good.header._replace(content='0' * 64), good.tree, good.sha256)
    with pytest.raises(ValueError, match='in other values'):
        backbone.add('t', other)
    backbone.add('t', good)
    with pytest.raises(ValueError, match='from a backbone of its own'):
        backbone.add('u', other)
    changed = {**good.tree, 'head': {**good.tree['head'], 'bias': np.ones(2, np.float32)}}
    with pytest.raises(ValueError, match='other weights than those that its run measured'):
        backbone.add('t', Pack(good.header, changed, good.sha256))
    assert list(backbone.tasks) == ['t']
    with pytest.raises(ValueError, match='5 images and 1 tasks'):
        backbone.predict(shown, ['t'])
    with pytest.raises(ValueError, match='divide by 255'):
        backbone.predict(shown.astype(np.float32), 't')
    with pytest.raises(ValueError, match='max_batch is 3; allowed: powers of two'):
        Backbone(max_batch=3)
    with pytest.raises(ValueError, match="no backbone 'vit_mikro'"):
        Backbone('vit_mikro')
    with pytest.raises(FileNotFoundError, match=r'nowhere\.npz'):
        Backbone('nowhere.npz')
    wrong = Backbone('swin_micro')
    with pytest.raises(ValueError, match='needs vit_micro'):
        wrong.add('t', good)


def test_logits_that_are_not_finite_fail_alone(shown):
    backbone = Backbone('vit_micro', max_batch=2)
    backbone.add('good', packed('linear', 0))
    backbone.add('bad', packed('linear', 1))
    answers = of(backbone, shown, 'good', 'bad')
    huge = answers[1]._replace(logits=np.array([np.inf, 0], np.float32))
    assert abs(answers[0].probabilities.sum() - 1) < 1e-6
    with pytest.raises(NonFiniteLogits, match='task bad'):
        huge.probabilities  # noqa: B018
