"""Two processes on one machine, two simulated devices each, with gloo between them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jax_prompt.runs.restore import restore
from jax_prompt.runs.run import run
from jax_prompt.train import processes
from jax_prompt.train.log import read_metrics

ROOT = Path(__file__).resolve().parents[2]
HEARTBEAT = 10  # seconds
TIMEOUT = 300  # seconds; far more than it takes

# A config file whose argument is a config.json.
_CONFIG = """
import json
from ml_collections import ConfigDict

def get_config(arg):
    with open(arg, encoding='utf-8') as file:
        return ConfigDict(json.load(file))
"""

# What the processes of a run ask of each other, each answer printed as JSON by both.
_ASK = """
import json, sys
from functools import partial
import jax, jax.numpy as jnp, numpy as np
from jax_prompt.data.loader import Stream
from jax_prompt.data.source import Split
from jax_prompt.data.transforms import StoredView
from jax_prompt.train.processes import connect, from_primary, is_primary, share
from jax_prompt.train.mesh import SharedStream, data_mesh, replicate, split_frozen

mine = int(sys.argv[2])
connect(sys.argv[1], 2, mine)
out = {'value': from_primary(lambda: {'asked': mine})}

def fail():
    raise FileNotFoundError(f'no file for {mine}')

try:
    from_primary(fail)
except FileNotFoundError as error:
    out['error'] = str(error)

tree = {'a': np.array([-0.0, np.nan, 1 / 3], np.float32), 'b': np.array(True), 'c': jnp.arange(3.0)}
tree['d'] = jnp.array([1.5, -2.5], jnp.bfloat16)
other = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree)
got = share(tree if is_primary() else None, other)
same = lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes() and a.dtype == b.dtype
out['shared'] = all(jax.tree.leaves(jax.tree.map(same, got, tree)))

mesh = data_mesh(0, 2)
key = replicate(jax.random.key(3), mesh)
out['key'] = int(jax.random.bits(key)) == int(jax.random.bits(jax.random.key(3)))
kernel = np.arange(2 * 64 * 64, dtype=np.float32).reshape(2, 64, 64)
frozen = split_frozen({'blocks_00_02': {'kernel': kernel}}, mesh)['blocks_00_02']['kernel']
out['part'] = frozen.addressable_shards[0].data.shape
out['sum'] = float(jax.jit(jnp.sum)(frozen)) == float(kernel.sum())
read = []

def image(i):
    read.append(i)
    return np.full((4, 4, 3), i, np.uint8)

stream = Stream(Split('train', np.arange(8, dtype=np.int32), image, str), StoredView(4), workers=1)
(x, labels), = SharedStream(stream, mesh).batches(np.array([[7, 1, 5, 3]]))
out['read'], out['labels'] = sorted(read), labels.tolist()
means = jax.jit(lambda x: x.mean((1, 2, 3)), out_shardings=key.sharding)(x)
out['means'] = np.asarray(means).tolist()
try:
    data_mesh(2)
except ValueError as error:
    out['mesh'] = str(error)
print(json.dumps(out))
"""


@pytest.fixture
def pair():
    """Returns a function that starts a command twice; no process outlives the test."""
    started = []

    def start(command, devices=2):
        flags = os.environ['XLA_FLAGS'].replace('device_count=8', f'device_count={devices}')
        env = {**os.environ, 'XLA_FLAGS': flags}
        for name in [name for name in env if '_proxy' in name.lower()]:
            del env[name]
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            address = f'127.0.0.1:{free.getsockname()[1]}'
        for i in range(2):
            process = subprocess.Popen(
                command(address, i),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env=env,
                start_new_session=True,
            )
            started.append(process)
        return started

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def launch(pair, tmp_path):
    """Returns a function that starts a run in two processes."""

    def start(config, workdir, devices=2):
        (tmp_path / 'get.py').write_text(_CONFIG)
        (tmp_path / 'config.json').write_text(json.dumps(config.to_dict()))
        fixed = [sys.executable, 'launch/train.py', f'--workdir={workdir}']
        fixed += [f'--config={tmp_path / "get.py"}:{tmp_path / "config.json"}']
        fixed += ['--compilation_cache=', '--distributed', '--num_processes=2']
        fixed += [f'--heartbeat_seconds={HEARTBEAT}']
        return pair(lambda at, i: [*fixed, f'--coordinator={at}', f'--process_id={i}'], devices)

    return start


def test_processes_ask_the_first_one_and_share_arrays(pair):
    processes = pair(lambda address, i: [sys.executable, '-c', _ASK, address, str(i)])
    answers = []
    for process in processes:
        out, errors = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, errors
        answers.append(json.loads(out.splitlines()[-1]))
    for i, answer in enumerate(answers):
        assert answer['value'] == {'asked': 0}
        assert answer['error'] == 'no file for 0'
        assert answer['shared']
        assert answer['key']
        assert answer['part'] == [2, 32, 64]
        assert answer['sum']
        assert answer['read'] == [[1, 7], [3, 5]][i]  # each its half of the batch
        assert answer['labels'] == answer['means'] == [7, 1, 5, 3]
        assert 'set engine.num_devices=0' in answer['mesh']


def test_two_processes_end_like_one(make_config, launch, tmp_path):
    # Ten test images in batches of 8: the last is ragged. Weights are split, images streamed.
    options = {'method': 'spt_deep', 'search': True, 'search_lrs': (1e-2,), 'epochs': 1}
    options |= {'image_size': 16}
    one = run(make_config(**options), tmp_path / 'one', quiet=True)
    engine = {'fsdp': 2, 'eval_batch_size': 8, 'checkpoint_seconds': 0.0}
    config = make_config(**options, engine=engine, input={'budget_mb': 1e-6})
    processes = launch(config, tmp_path / 'two')
    for process in processes:
        _, errors = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, errors
    two = json.loads((tmp_path / 'two' / 'result.json').read_text())
    assert two['machine']['num_processes'] == 2
    assert two['machine']['num_devices'] == 4
    assert two['test_accuracy'] == one['test_accuracy']
    assert two['test_loss'] == pytest.approx(one['test_loss'], rel=1e-5)
    rows = [(r['stage'], r['epoch']) for r in read_metrics(tmp_path / 'two' / 'metrics.jsonl')]
    assert rows == [('search/lr_0.01', 1), ('train', 1)]  # by one process alone
    again = restore(tmp_path / 'two').evaluate('test')
    assert again['accuracy'] == two['test_accuracy']
    assert again['loss'] == pytest.approx(two['test_loss'], rel=1e-5)


def _steps(checkpoints):
    return [int(path.name) for path in checkpoints.glob('*') if path.name.isdigit()]


@pytest.mark.parametrize('victim', [1, 0])
def test_a_lost_process_is_named_and_the_run_goes_on_alone(make_config, launch, tmp_path, victim):
    options = {'method': 'linear', 'epochs': 60, 'image_size': 16, 'input': {'cache_mb': 0.0}}
    engine = {'eval_batch_size': 8, 'eval_every': 60, 'checkpoint_seconds': 0.0}
    config = make_config(**options, engine=engine)
    # With two devices each, gloo may abort the process that is left before the heartbeats are due.
    processes = launch(config, tmp_path / 'run', devices=1)
    checkpoints = tmp_path / 'run' / 'checkpoints'
    end = time.monotonic() + TIMEOUT
    while not _steps(checkpoints):
        assert time.monotonic() < end, 'no checkpoint'
        assert all(process.poll() is None for process in processes), processes[0].communicate()
        time.sleep(0.05)
    processes[victim].send_signal(signal.SIGKILL)
    alone = make_config(**options, engine=engine | {'num_devices': 1, 'checkpoint_seconds': 30.0})
    if victim == 1:  # while the other one waits for a heartbeat
        want = run(alone, tmp_path / 'undisturbed', quiet=True)
    _, errors = processes[1 - victim].communicate(timeout=TIMEOUT)
    assert processes[1 - victim].returncode == 128 + signal.SIGABRT, errors
    last = errors.splitlines()[-1]
    lost = f'error: process {victim} of 2 lost, noticed by process {1 - victim}. Start'
    assert lost in last, errors
    step = max(_steps(checkpoints))
    assert f'it goes on from step {step} ({checkpoints / str(step)})' in last
    assert not (tmp_path / 'run' / 'result.json').exists()

    if victim == 0:
        return
    got = run(alone, tmp_path / 'run', quiet=True)
    epochs = [row['epoch'] for row in read_metrics(tmp_path / 'run' / 'metrics.jsonl')]
    assert epochs == list(range(1, 61))
    assert got['test_accuracy'] == want['test_accuracy']
    assert got['test_loss'] == pytest.approx(want['test_loss'], rel=1e-4)


def test_the_first_process_fails_for_all(make_config, launch, tmp_path):
    (tmp_path / 'taken').mkdir()
    (tmp_path / 'taken' / 'file').touch()
    for process in launch(make_config(engine={}), tmp_path / 'taken'):
        _, errors = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 2, errors
        assert 'is not empty and holds no run' in errors.splitlines()[-1]


def test_nothing_says_where_the_others_are():
    script = 'from jax_prompt.train.processes import connect; connect()'
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, cwd=ROOT)
    assert 'give --coordinator=HOST:PORT' in done.stderr


@pytest.mark.parametrize(
    ('code', 'want', 'ends'),
    [
        ('raise SystemExit(3)', 3, ''),
        (
            'import os, signal; os.kill(os.getpid(), signal.SIGKILL)',
            137,
            'error: this process was ended by SIGKILL. Start it again, with as many processes as '
            'you like: it goes on from its last checkpoint',
        ),
        (
            "import os, sys; print('process 2 of 4: ...\\ntasks (stopped sending heartbeats):\\n1'"
            "'\\n3\\nThe tasks', file=sys.stderr, flush=True); os.abort()",
            134,
            'error: processes 1, 3 of 4 lost, noticed by process 2. Start it again',
        ),
        (
            "import os, sys; print('process 0 of 2: ...\\nterminate called after throwing an '"
            "'instance of \\'gloo::EnforceNotMet\\'', file=sys.stderr, flush=True); os.abort()",
            134,
            'error: gloo aborted process 0 of 2 in a collective operation, as it does when another '
            'process is lost. Start it again',
        ),
        (
            "import os, sys; print('process 0 of 2: ...', file=sys.stderr, flush=True); os.abort()",
            134,
            'error: this process was ended by SIGABRT. Start it again',
        ),
    ],
)
def test_a_process_under_supervision(tmp_path, code, want, ends):
    script = (
        'import sys; from pathlib import Path; '
        'from jax_prompt.train.processes import supervise; '
        'sys.exit(supervise([sys.executable, "-c", sys.argv[1]], Path(sys.argv[2])))'
    )
    command = [sys.executable, '-c', script, code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == want
    assert ends in (done.stderr.splitlines() or [''])[-1]


def test_latest_step_is_found_among_all_stages(tmp_path):
    for i, name in enumerate(('search/lr_0.1/12', 'checkpoints/3', 'checkpoints/4.tmp')):
        (tmp_path / name).mkdir(parents=True)
        os.utime(tmp_path / name, (i, i))
    assert f'step 3 ({tmp_path / "checkpoints/3"})' in processes._how_to_go_on(tmp_path)
