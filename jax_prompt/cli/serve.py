"""Serve: jax-prompt serve --packs DIR [--weights FILE] [--port 8080].

    jax-prompt serve --packs packs --port 8080
    curl -F task=flowers -F image=@a.jpg http://localhost:8080/v1/predict

One backbone, and all packs of a folder as tasks: NAME.safetensors is the task NAME. The folder is
watched. docs/serving.md says what the server answers and what its bounds are. It needs the extra
'serve': pip install 'jax-prompt[serve]'.
"""

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import fields

from jax_prompt.cli.parser import make_parser
from jax_prompt.door import user_path
from jax_prompt.serve.backbone import Backbone
from jax_prompt.serve.server import serve
from jax_prompt.serve.service import Service
from jax_prompt.serve.settings import Settings

_TOKEN = 'JAX_PROMPT_TOKEN'


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the arguments."""
    parser = make_parser('serve', __doc__)
    parser.add_argument('--packs', required=True, type=user_path, help='the folder of the packs')
    parser.add_argument('--weights', default='', help="the backbone's file or name")
    parser.add_argument('--host', default='127.0.0.1', help='0.0.0.0: reachable from elsewhere')
    parser.add_argument('--port', type=int, default=8080)
    parser.add_argument('--max_batch', type=int, default=16, help='most images of a device call')
    parser.add_argument('--capacity', type=int, default=8, help='slots a kind of pack starts with')
    parser.add_argument('--budget_mb', type=float, default=1000.0, help='device memory for packs')
    for field in fields(Settings):
        if field.type is bool or field.type == 'bool':
            text = f'put and delete tasks with the token in {_TOKEN}'
            parser.add_argument(f'--{field.name}', action=argparse.BooleanOptionalAction, help=text)
            continue
        kind = type(field.default)
        parser.add_argument(f'--{field.name}', type=kind, help=f'default {field.default}')
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until SIGTERM."""
    args = parse(arguments)
    given = {f.name: getattr(args, f.name) for f in fields(Settings)}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(levelname)s %(message)s')
    for name in ('jax', 'absl'):
        logging.getLogger(name).setLevel(logging.WARNING)
    backbone = Backbone(
        args.weights,
        max_batch=args.max_batch,
        capacity=args.capacity,
        budget_mb=args.budget_mb,
    )
    token = os.environ.get(_TOKEN, '') if settings.allow_upload else ''
    serve(Service(backbone, settings, args.packs, token), args.host, args.port)
