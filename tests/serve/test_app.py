"""The server's answers, its bounds, and what it refuses."""

import asyncio
import base64
import json
import time

import numpy as np
import pytest
from small_asgi import call, post
from small_data import encode
from small_serve import tuned

from jax_prompt.serve.app import make_app
from jax_prompt.serve.service import Service
from jax_prompt.serve.settings import Settings

TOKEN = 'a-token-of-sixteen-characters'
AUTH = {'authorization': f'Bearer {TOKEN}'}


def run(make, *args):
    """Runs an asynchronous function."""
    return asyncio.run(make(*args))


def told(result):
    return {one['class']: one['probability'] for one in result['predictions']}


def close(result, method, seed, classes, path):
    one = tuned(method, seed, classes)
    wanted = dict(zip(one.classes, one.predict([path])[0].tolist(), strict=True))
    assert told(result) == pytest.approx(wanted, abs=1e-5)
    listed = list(told(result).values())
    assert listed == sorted(listed, reverse=True)


def test_a_form_and_json_give_what_the_runs_give(make_service, files, tmp_path):
    app = make_app(make_service())
    for i in (0, 5):
        (tmp_path / f'{i}.png').write_bytes(files[i])
    parts = [('image', files[0]), ('task', 'a'), ('image', files[5]), ('task', 'c'), ('top', 5)]
    reply = run(lambda: post(app, *parts, x_request_id='mine-1'))
    assert reply.status == 200 and reply.json['id'] == reply.headers['x-request-id'] == 'mine-1'
    found = reply.json['results']
    assert [(one['image'], one['task']) for one in found] == [
        ('0.png', 'a'), ('0.png', 'c'), ('2.png', 'a'), ('2.png', 'c'),
    ]  # fmt: skip
    for one, i in zip(found, (0, 0, 5, 5), strict=True):
        way = ('linear', 0, 3) if one['task'] == 'a' else ('vpt_deep', 0, 2)
        close(one, *way, tmp_path / f'{i}.png')
    text = base64.b64encode(files[5]).decode()
    body = json.dumps({'image': text, 'task': 'b', 'top': 1}).encode()
    reply = run(lambda: call(app, 'POST', '/v1/predict', body, content_type='application/json'))
    (one,) = reply.json['results']
    best = max(
        enumerate(tuned('linear', 1, 3).predict([tmp_path / '5.png'])[0]), key=lambda x: x[1]
    )
    assert told(one) == {tuned('linear', 1, 3).classes[best[0]]: pytest.approx(best[1], abs=1e-5)}


def test_requests_at_once_share_batches_and_none_gets_another_ones_answer(
    make_service, files, tmp_path
):
    wanted = {}
    for i in range(5):
        (tmp_path / f'{i}.png').write_bytes(files[i])
    for name, way in (('a', ('linear', 0, 3)), ('b', ('linear', 1, 3)), ('c', ('vpt_deep', 0))):
        wanted[name] = tuned(*way).predict([tmp_path / f'{i}.png' for i in range(5)]).max(axis=1)
    service = make_service(max_wait_ms=20.0)
    app = make_app(service)

    async def many():
        asked = [(f'{name}{i}', name, i) for _ in range(4) for name in 'abc' for i in range(5)]
        replies = await asyncio.gather(
            *(
                post(app, ('image', files[i]), ('task', name), ('top', 1), x_request_id=mark)
                for mark, name, i in asked
            )
        )
        return zip(asked, replies, strict=True)

    for (mark, name, i), reply in run(many):
        assert reply.status == 200 and reply.json['id'] == mark
        (one,) = reply.json['results']
        assert one['task'] == name
        assert one['predictions'][0]['probability'] == pytest.approx(wanted[name][i], abs=1e-5)
    text = service.metrics.text()
    assert 'jax_prompt_requests_total{route="/v1/predict",status="200"} 60' in text
    assert 'jax_prompt_images_total 60' in text and service._pending == 0
    batches = int(text.split('jax_prompt_batch_images_count ')[1].split()[0])
    assert batches < 60 and 'jax_prompt_compilations_total 0' in text


def test_one_bad_image_fails_alone(make_service, files):
    app = make_app(make_service(max_pixels=2000))
    large = encode(np.zeros((50, 50, 3), np.uint8))
    parts = [
        ('image', files[0]),
        ('image', b'no image'),
        ('image', files[1][:60]),
        ('image', large),
    ]
    reply = run(lambda: post(app, *parts, ('task', 'a')))
    good, other, cut, big = reply.json['results']
    assert reply.status == 200 and 'predictions' in good
    assert other['error'].startswith('1.png: no image of JPEG')
    assert cut['error'].startswith('2.png: not a readable image')
    assert big['error'] == '3.png: 2,500 pixels; at most 2,000'
    reply = run(lambda: post(app, ('image', b'no image'), ('task', 'a')))
    assert reply.status == 422


def test_images_that_would_burst_are_not_decoded(make_service):
    import struct
    import zlib

    def png(width, height):
        head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
        chunks = [(b'IHDR', head), (b'IDAT', zlib.compress(b'\0' * 1000)), (b'IEND', b'')]
        parts = [
            struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k + d))
            for k, d in chunks
        ]
        return b'\x89PNG\r\n\x1a\n' + b''.join(parts)

    app = make_app(make_service())
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    parts = [('image', png(30_000, 30_000)), ('image', png(9_000, 9_000)), ('image', svg)]
    one = encode(np.full((1, 1, 3), 7, np.uint8))
    reply = run(lambda: post(app, *parts, ('image', one), ('task', 'a')))
    bomb, large, drawn, dot = reply.json['results']
    assert bomb['error'] == '0.png: more than 50,000,000 pixels'
    assert large['error'] == '1.png: 81,000,000 pixels; at most 50,000,000'
    assert drawn['error'].startswith('2.png: no image of') and 'passwd' not in drawn['error']
    assert len(dot['predictions']) == 3


def test_bodies_are_cut_off(make_service):
    service = make_service(max_body_mb=0.001, body_timeout_s=0.05)
    app = make_app(service)
    head = {'content_type': 'application/json'}
    reply = run(lambda: call(app, 'POST', '/v1/predict', b'x', content_length='2000', **head))
    assert (reply.status, reply.read, reply.headers['connection']) == (413, 0, 'close')
    chunks = [b'x' * 400] * 100
    reply = run(lambda: call(app, 'POST', '/v1/predict', chunks, **head))
    assert (reply.status, reply.read) == (413, 3)
    reply = run(lambda: call(app, 'POST', '/v1/predict', b'', content_length='-1', **head))
    assert reply.status == 400

    async def slow():
        for _ in range(100):
            await asyncio.sleep(0.02)
            yield b'x'

    reply = run(lambda: call(app, 'POST', '/v1/predict', slow(), **head))
    assert reply.status == 408 and reply.read < 10
    reply = run(lambda: call(app, 'POST', '/v1/predict', [b'x', b'y'], gone=True, **head))
    assert reply.status == 400 and service.bodies.held == 0


@pytest.mark.parametrize(
    ('parts', 'status', 'text'),
    [
        ([('image', b'x')], 400, 'at least one image and one task'),
        ([('task', 'a')], 400, 'at least one image and one task'),
        ([('image', b'x'), ('task', '../../etc')], 404, "there is no task '../../etc'"),
        ([('image', b'x'), ('task', 'a'), ('top', '0')], 400, 'top is not'),
        ([('image', b'x'), ('task', 'a'), ('top', '1e9')], 400, 'top is not'),
        ([('image', b'x'), ('task', b'a')], 400, "a form has files 'image'"),
        ([('image', b'x'), ('task', 'a'), ('path', 'x')], 400, "a form has files 'image'"),
        ([('image', b'x')] * 5 + [('task', 'a'), ('task', 'b')], 413, 'at most 8'),
        ([('image', b'x')] * 9 + [('task', 'a')], 400, 'too many parts'),
    ],
)
def test_forms_that_are_refused(make_service, parts, status, text):
    reply = run(lambda: post(make_app(make_service(max_images=8)), *parts))
    assert reply.status == status and text in reply.json['error'] and reply.json['id']


@pytest.mark.parametrize(
    ('kind', 'body', 'status'),
    [
        ('application/json', b'{', 400),
        ('application/json', b'[' * 100_000, 400),
        ('application/json', b'[]', 400),
        ('application/json', b'{"image": 1, "task": "a"}', 400),
        ('application/json', b'{"image": "####", "task": "a"}', 400),
        ('application/json', b'{"image": "", "task": "a", "top": true}', 400),
        ('application/json', b'{"image": "", "task": "a", "path": "x"}', 400),
        ('application/json', b'{"image": "", "task": "a"}', 422),
        ('application/x-python-pickle', b'\x80\x04.', 415),
        ('multipart/form-data', b'', 400),
        ('multipart/form-data; boundary=x', b'--x\r\nfoo', 400),
        ('', b'', 415),
    ],
)
def test_bodies_that_are_refused(make_service, kind, body, status):
    app = make_app(make_service())
    reply = run(lambda: call(app, 'POST', '/v1/predict', body, content_type=kind))
    assert reply.status == status and 'Traceback' not in reply.body.decode()


def test_what_is_too_much_is_refused_and_what_is_late_given_up(make_service, files, monkeypatch):
    service = make_service(max_queue=2, timeout_s=0.3)
    app = make_app(service)
    answer = service.backbone.answer

    def slowly(*args):
        time.sleep(0.5)
        return answer(*args)

    monkeypatch.setattr(service.backbone, 'answer', slowly)

    async def crowd():
        return await asyncio.gather(
            *(post(app, ('image', files[0]), ('task', 'a')) for _ in range(3))
        )

    replies = run(crowd)
    assert sorted(reply.status for reply in replies) == [429, 504, 504]
    full = next(reply for reply in replies if reply.status == 429)
    assert full.headers['retry-after'] == '1' and service._pending == 0
    service.ready = False
    reply = run(lambda: post(app, ('image', files[0]), ('task', 'a')))
    assert reply.status == 503 and run(lambda: call(app, 'GET', '/readyz')).status == 503
    assert run(lambda: call(app, 'GET', '/healthz')).status == 200


def test_a_failure_inside_says_nothing_of_the_inside(make_service, files, monkeypatch, caplog):
    service = make_service()

    def fails(*args):
        raise RuntimeError('/secret/path')

    monkeypatch.setattr(service.backbone, 'answer', fails)
    reply = run(lambda: post(make_app(service), ('image', files[0]), ('task', 'a')))
    assert reply.status == 422 and reply.json['results'][0]['error'] == 'internal error'
    monkeypatch.setattr(service, 'predict', fails)
    reply = run(lambda: post(make_app(service), ('image', files[0]), ('task', 'a')))
    assert reply.status == 500 and reply.json['error'] == 'internal error'
    assert b'secret' not in reply.body and 'secret' in caplog.text


def test_tasks_are_put_and_deleted_with_the_token_alone(make_service, make_pack, caplog, files):
    pack, path = make_pack('linear', 2, 3), '/v1/tasks/new'
    shut = make_app(make_service())
    assert run(lambda: call(shut, 'PUT', path, pack, **AUTH)).status == 403
    app = make_app(make_service(allow_upload=True))
    for wrong in ({}, {'authorization': 'Bearer no'}, {'authorization': TOKEN}):
        assert run(lambda wrong=wrong: call(app, 'PUT', path, pack, **wrong)).status == 401
    for name in ('..', 'a b', 'x' * 65, '%2e%2e'):
        reply = run(lambda name=name: call(app, 'PUT', f'/v1/tasks/{name}', pack, **AUTH))
        assert reply.status == 400
    assert run(lambda: call(app, 'PUT', path, pack[:-1], **AUTH)).status == 422
    assert run(lambda: call(app, 'PUT', path, b'\x80\x04.', **AUTH)).status == 422
    assert run(lambda: call(app, 'DELETE', path, **AUTH)).status == 404
    reply = run(lambda: call(app, 'PUT', path, pack, **AUTH))
    assert reply.status == 200 and reply.json['classes'] == ['red', 'green', 'blue']
    listed = run(lambda: call(app, 'GET', '/v1/tasks')).json
    assert [task['name'] for task in listed['tasks']] == ['a', 'b', 'c', 'new']
    assert run(lambda: post(app, ('image', files[0]), ('task', 'new'))).status == 200
    assert run(lambda: call(app, 'DELETE', path, **AUTH)).status == 200
    assert run(lambda: post(app, ('image', files[0]), ('task', 'new'))).status == 404
    assert TOKEN not in caplog.text and 'TemporaryDirectory' not in caplog.text


def test_settings_are_checked(backbone):
    with pytest.raises(ValueError, match='max_queue is 0; allowed: more than 0'):
        Settings(max_queue=0)
    with pytest.raises(ValueError, match='a token of 16 characters'):
        Service(backbone, Settings(allow_upload=True), token='short')
