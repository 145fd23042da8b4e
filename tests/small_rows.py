"""Made-up rows of results: five tasks in two groups."""

from jax_prompt.report.rows import Row

GROUPS = {'Few': ('a', 'b'), 'Many': ('c', 'd', 'e')}
TASKS = ('a', 'b', 'c', 'd', 'e')
WEIGHTS = {'source': 'w.npz', 'sha256': '0123456789abcdef'}


def make(method, task, seed, accuracy, **more):
    numbers = {
        **{'num_trainable': 1_500_000, 'num_trainable_head': 500_000, 'seconds': 10.0 + seed},
        **{'images_per_second': 100.0, 'peak_memory_mb': 900.0, 'weights': WEIGHTS},
    }
    return Row(task, method, 'vit_b16', seed, accuracy=accuracy, **{**numbers, **more})


def full_set(method, base=0.5, tasks=TASKS, seeds=(0, 1, 2), **more):
    """Accuracies base + 0.1 * place of the task + 0.01 * seed."""
    return [
        make(method, task, seed, base + 0.1 * TASKS.index(task) + 0.01 * seed, **more)
        for task in tasks
        for seed in seeds
    ]
