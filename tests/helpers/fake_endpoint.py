"""A server that speaks the chat-completions JSON."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@contextmanager
def serving(answer: Callable[[dict], str | int | dict | None]) -> Iterator[Any]:
    """Has `url`, and `asked`: the requests so far.

    Args:
        answer: what it says to a request; a number is the status of a failure, which repeats key and address, and a
            mapping the whole answer.
    """
    asked: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(request)
            said = answer(request)
            failed = isinstance(said, int)
            spoken = {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}}]}
            reply = said if isinstance(said, dict) else spoken
            echoed = {"error": {"message": f"no way, {self.headers['Authorization']}, {self.path}"}}
            body = json.dumps(echoed if failed else reply).encode()
            self.send_response(said if failed else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    served: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=served.serve_forever, daemon=True).start()
    served.asked, served.url = asked, f"http://127.0.0.1:{served.server_address[1]}/v1"
    yield served
    served.shutdown()
    served.server_close()
