"""The command itself, in a process of its own: signals, and what is accepted is answered."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_asgi import form

ROOT = Path(__file__).resolve().parents[2]


def _post(port, body, kind, mark):
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    try:
        head = {'Content-Type': kind, 'X-Request-Id': mark}
        connection.request('POST', '/v1/predict', body, head)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def test_sigterm_under_load_loses_no_accepted_request(tmp_path, make_pack, files):
    for name, seed in (('a', 0), ('b', 1)):
        (tmp_path / f'{name}.safetensors').write_bytes(make_pack('linear', seed, 3))
    code = 'from jax_prompt.cli.main import main; main()'
    words = ['serve', '--packs', str(tmp_path), '--weights', 'vit_micro', '--port', '0']
    words += ['--max_batch', '2', '--capacity', '2', '--max_wait_ms', '50']
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    with subprocess.Popen(
        [sys.executable, '-c', code, *words], stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        said: list[str] = []

        def wait_for(pattern):
            for line in server.stderr:
                said.append(line)
                if found := re.search(pattern, line):
                    return found
            raise AssertionError(''.join(said))

        port = int(wait_for(r'listening at 127\.0\.0\.1:(\d+)')[1])
        wait_for('ready: 2 tasks')
        done, refused = [], []

        def client(number):
            for turn in range(1000):
                mark, task = f'{number}-{turn}', 'ab'[turn % 2]
                body, kind = form(('image', files[number]), ('task', task), ('top', 1))
                try:
                    status, answer = _post(port, body, kind, mark)
                except (ConnectionError, http.client.HTTPException) as error:
                    refused.append(error)
                    return
                done.append(
                    (status, answer['id'] == mark, answer['results'][0]['task'] == task, number,
                     task, answer['results'][0]['predictions'][0]['probability'])
                )  # fmt: skip

        threads = [threading.Thread(target=client, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        while len(done) < 12:
            time.sleep(0.01)
        server.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        code = server.wait(60)
        said.append(server.stderr.read())
    assert code == 0 and 'Traceback' not in ''.join(said), ''.join(said)
    assert all(status == 200 and own and task for status, own, task, *_ in done)
    # Each client ended at the closed door. What came in before was answered, to the last one.
    assert len(refused) == 4
    assert f'{len(done)} requests came in, {len(done)} were answered' in said[-1], said[-1]
    same = {}
    for *_, number, task, probability in done:
        # Batches of one and of two are other programs: the last bits may differ.
        assert same.setdefault((number, task), probability) == pytest.approx(probability, abs=1e-6)
