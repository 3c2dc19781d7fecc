"""The baseline of ``stream-ctr bench serve``: uvicorn with the server's settings and an empty handler.

``python -m stream_ctr.bench.serve.empty_handler`` listens on a free port of 127.0.0.1 and prints its address.
"""

from __future__ import annotations

import socket
import sys

import uvicorn

from stream_ctr.serving.http.asgi import Receive, Scope, Send, respond


async def empty(scope: Scope, _receive: Receive, send: Send) -> None:
    """Respond immediately without reading the request."""
    await respond(send, 200, b"{}")


def main() -> int:
    """Serve on a free loopback port, printed on standard output, until the process is ended."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(
        empty,
        loop="auto",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    print(f"serves at http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
