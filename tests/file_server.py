"""A small HTTP server that misbehaves in the ways that servers do."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DATA = bytes(range(256)) * 1536  # 384 kB, twice three pieces of a transfer


class FileServer(ThreadingHTTPServer):
    """Serves `data` at any path; the first part of the path says how.

    Attributes:
      data: the file.
      tag: its ETag.
      asked: the requests so far, (path, headers).
      end: set at the end, so that stalled answers end too.
      left: how many more answers of /breaks and /busy are bad.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.data, self.tag, self.asked, self.left = DATA, '"one"', [], 1
        self.end, self.stalled = threading.Event(), threading.Event()

    def handle_error(self, request, client_address):
        """A client that hangs up is part of a test."""

    @property
    def port(self):
        return self.server_address[1]

    def url(self, path, host='127.0.0.1'):
        return f'http://{host}:{self.port}/{path}'


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, dict(self.headers)))
        way = self.path.removeprefix('http://weights.invalid').split('/')[1]
        bad = way in ('breaks', 'busy', 'stalls') and server.left > 0
        server.left -= bad
        if way == 'redirect':
            host = 'localhost' if self.headers['Host'].startswith('127') else '127.0.0.1'
            linked = {'X-Linked-ETag': f'"{"0" * 64}"'} if 'stated' in self.path else {}
            return self._answer(302, {'Location': server.url('file', host), **linked})
        if way in ('404', '401', '418'):
            return self._answer(int(way), {})
        if way == 'busy' and bad:
            return self._answer(503, {})
        if way == 'slow':
            return server.end.wait(20)
        kind = {'page': {'Content-Type': 'text/html; charset=utf-8'}}.get(way, {})
        kind |= {'Content-Encoding': 'gzip'} if way == 'packed' else {}
        data, tag = server.data, server.tag
        wanted = self.headers.get('Range', '')
        start = int(wanted.removeprefix('bytes=').rstrip('-') or 0)
        if start and self.headers.get('If-Range', tag) != tag:
            start = 0
        headers = {**kind, 'ETag': tag, 'Content-Length': str(len(data) - start)}
        if start:
            headers['Content-Range'] = f'bytes {start}-{len(data) - 1}/{len(data)}'
        stop = len(data) // 2 if bad else len(data)
        self._answer(206 if start else 200, headers, data[start:stop])
        if bad and way == 'stalls':
            server.stalled.set()
            server.end.wait(20)

    def _answer(self, status, headers, body=b''):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if 'Content-Length' not in headers:
            self.send_header('Content-Length', '0')
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
