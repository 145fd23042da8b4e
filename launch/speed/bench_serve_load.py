"""Puts servers under load: latency and images/s, jax_prompt beside PyTorch.

    python launch/speed/bench_serve_load.py --arch vit_ti16_224 --requests 20000 --clients 32

Each server is a process of its own on the loopback: jax_prompt with one task (one), with 64 tasks
in turn (many), and a PyTorch ViT of the same shape with one task (torch), all behind the same HTTP
code, decoding and dynamic batches. Clients keep their connections and send one image (a JPEG) after
the other. The servers take turns of `--turn` requests. Every answer is looked at: it has to carry
its request's id and its task, and the same image and task must always give the same prediction, to
1e-4. Weights are noise. On a busy machine only ratios mean anything, and these roughly.
"""

import argparse
import http.client
import io
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_machine import machine

from jax_prompt.backbones.architectures import ARCHITECTURES
from jax_prompt.door import enter

_IMAGES, _TASKS = 16, 64


def serve_side(side: str, args: argparse.Namespace) -> None:
    """A server's process: prints its port, and serves until SIGTERM."""
    import logging

    from jax_prompt.serve.server import serve
    from jax_prompt.serve.service import Service
    from jax_prompt.serve.settings import Settings

    backbone: Any
    if side == 'torch':
        from bench_serve_torch import TorchBackbone

        backbone = TorchBackbone(
            args.arch, args.prompts, args.classes, args.max_batch, args.threads
        )
    else:
        from bench_serve_packs import config_of, make_run, noisy_packs, write_backbone

        from jax_prompt.serve import Backbone

        number = _TASKS if side == 'many' else 1
        with tempfile.TemporaryDirectory() as name:
            weights = Path(name) / 'noise.safetensors'
            write_backbone(args.arch, weights)
            run = make_run(config_of(args.arch, args.method, args.prompts, weights), args.classes)
            backbone = Backbone(weights, max_batch=args.max_batch, capacity=number)
            for i, pack in enumerate(noisy_packs(run, number)):
                backbone.add(f't{i}', pack)
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    logging.getLogger('jax').setLevel(logging.WARNING)
    serve(Service(backbone, Settings(max_wait_ms=args.max_wait_ms)), '127.0.0.1', 0)


class Server:
    """A side's process, and its clients."""

    def __init__(self, side: str, args: argparse.Namespace):
        words = [sys.executable, __file__, '--side', side]
        for name in ('arch', 'method', 'prompts', 'classes', 'max_batch', 'max_wait_ms', 'threads'):
            words += [f'--{name}', str(getattr(args, name))]
        self.tasks = _TASKS if side == 'many' else 1
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        self.port, self.latencies, self.seconds = 0, [], 0.0  # type: ignore[var-annotated]
        self.seen: dict[tuple[int, str], float] = {}
        self.wrong: list[str] = []

    def wait(self) -> None:
        """Waits until it is ready."""
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line)
            if line.startswith('listening at'):
                self.port = int(line.rsplit(':', 1)[1])
            if line.startswith('ready'):
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                return
        raise RuntimeError(''.join(said))

    def turn(self, files: list[bytes], first: int, number: int, clients: int) -> None:
        """Sends so many requests from so many clients."""
        places, lock = iter(range(first, first + number)), threading.Lock()

        def client() -> None:
            connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=600)
            while True:
                with lock:
                    place = next(places, None)
                if place is None:
                    connection.close()
                    return
                self._ask(connection, files, place)

        threads = [threading.Thread(target=client) for _ in range(clients)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.seconds += time.perf_counter() - start

    def _ask(self, connection: http.client.HTTPConnection, files: list[bytes], i: int) -> None:
        image, task = i % _IMAGES, f't{i % self.tasks}'
        body = (
            f'--x\r\nContent-Disposition: form-data; name="task"\r\n\r\n{task}\r\n--x\r\n'
            'Content-Disposition: form-data; name="image"; filename="i"\r\n\r\n'
        ).encode() + files[image] + b'\r\n--x--\r\n'  # fmt: skip
        head = {'Content-Type': 'multipart/form-data; boundary=x', 'X-Request-Id': f'r{i}'}
        start = time.perf_counter()
        connection.request('POST', '/v1/predict', body, head)
        reply = connection.getresponse()
        answer = json.loads(reply.read())
        self.latencies.append(time.perf_counter() - start)
        if reply.status != 200 or answer['id'] != f'r{i}' or answer['results'][0]['task'] != task:
            self.wrong.append(f'r{i}: {reply.status} {str(answer)[:200]}')
            return
        best = answer['results'][0]['predictions'][0]['probability']
        if abs(self.seen.setdefault((image, task), best) - best) > 1e-4:
            self.wrong.append(f'r{i}: another result')

    def row(self) -> dict[str, Any]:
        """Ends the process; returns what was measured."""
        self.process.terminate()
        self.process.wait(60)
        cuts = statistics.quantiles(self.latencies, n=100)
        return {
            'requests': len(self.latencies),
            'images_per_second': len(self.latencies) / self.seconds,
            **{f'p{p}_ms': 1e3 * cuts[p - 1] for p in (50, 95, 99)},
            'wrong': self.wrong[:10],
        }


def jpegs(arch: str) -> list[bytes]:
    """Returns JPEG files of noise, a little larger than the model's images."""
    from PIL import Image

    size, rng = ARCHITECTURES[arch].image_size * 5 // 4, np.random.default_rng(0)
    files = []
    for _ in range(_IMAGES):
        file = io.BytesIO()
        small = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(small).resize((size, size)).save(file, 'JPEG')
        files.append(file.getvalue())
    return files


def main() -> None:
    """Prints a row a server."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--arch', default='vit_ti16_224', help='a ViT')
    parser.add_argument('--method', default='vpt_deep')
    parser.add_argument('--prompts', type=int, default=10)
    parser.add_argument('--classes', type=int, default=100)
    parser.add_argument('--requests', type=int, default=20_000, help='to each server')
    parser.add_argument('--turn', type=int, default=1000)
    parser.add_argument('--clients', type=int, default=32)
    parser.add_argument('--max_batch', type=int, default=16)
    parser.add_argument('--max_wait_ms', type=float, default=5.0)
    parser.add_argument('--threads', type=int, default=2, help='of PyTorch')
    parser.add_argument('--sides', nargs='+', default=['one', 'many', 'torch'])
    parser.add_argument('--side', help='(a server of this benchmark)')
    parser.add_argument('--out', type=Path, help='JSON file for the figures')
    args = parser.parse_args()
    if args.side:
        serve_side(args.side, args)
        return
    about, files = machine(), jpegs(args.arch)
    print(json.dumps(about))
    servers = {side: Server(side, args) for side in args.sides}
    for server in servers.values():
        server.wait()
    for first in range(0, args.requests, args.turn):
        for server in servers.values():
            server.turn(files, first, min(args.turn, args.requests - first), args.clients)
    rows = {side: server.row() for side, server in servers.items()}
    print(f'{"":8s} {"requests":>9s} {"images/s":>9s} {"p50 ms":>8s} {"p95 ms":>8s} {"p99 ms":>8s}')
    for side, row in rows.items():
        shown = ' '.join(f'{row[f"p{p}_ms"]:8.0f}' for p in (50, 95, 99))
        print(f'{side:8s} {row["requests"]:9d} {row["images_per_second"]:9.1f} {shown}')
        if row['wrong']:
            print(f'  WRONG: {row["wrong"]}')
    if args.out:
        given = {k: v for k, v in vars(args).items() if k not in ('out', 'side')}
        report = {'machine': about, 'arguments': given, 'servers': rows}
        args.out.write_text(json.dumps(report, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    enter(main)
