"""A side-port for the command line: answers what a test gives it, in that order, and remembers what it was asked."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def rest_service(*answers: tuple[int, Any]) -> Iterator[tuple[str, list[tuple[str, str, Any, Any, Any]]]]:
    """Its address, and the requests: method, path, Authorization, Prefer, body. The last answer is given from then on."""
    asked: list[tuple[str, str, Any, Any, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, document = answers[min(len(asked), len(answers) - 1)]
            asked.append(
                (
                    self.command,
                    self.path,
                    self.headers["Authorization"],
                    self.headers["Prefer"],
                    json.loads(body or b"null"),
                )
            )
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815  http.server looks for these

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()
