"""A stand-in for the vLLM child process: `python vllm_child.py <the real command line>`.

It listens where the command line says, holds an "engine" process in its session as vLLM does, and misbehaves:
files in the folder that FAKE_CONTROL names switch faults on (`unready`, `unhealthy`, `empty`, `broken`, `late`).
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CONTROL = Path(os.environ["FAKE_CONTROL"])
EPOCH = secrets.token_hex(4)
TOKEN = f"Bearer {os.environ['ERRATAD_ADMIN_TOKEN']}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if _on("unready") or _on("unhealthy"):
            self._send(503, {})
        elif self.path == "/health":
            self._send(200, {})
        elif self.headers["Authorization"] != TOKEN:
            self._send(401, {})
        else:
            state = {
                "live": None,
                "epoch": EPOCH,
                "interface": 2,
                "adapters": {},
                "traffic": {},
                "trial": None,
                "shadowed": {},
            }
            self._send(200, state)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": "" if _on("empty") else "one two three"}
        self._send(200, {"model": "base", "choices": [{"message": message, "finish_reason": "length"}]})

    def _send(self, status: int, body: object) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def _on(fault: str) -> bool:
    return (CONTROL / fault).exists()


def main() -> None:
    print("INFO Initializing a V1 LLM engine", flush=True)
    if _on("broken"):
        print("ERROR ValueError: the model has no config.json", flush=True)
        print("ERROR RuntimeError: Engine core initialization failed. See root cause above.", flush=True)
        sys.exit(0)
    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (CONTROL / f"engine-{os.getpid()}").write_text(str(engine.pid))
    port = int(sys.argv[sys.argv.index("--port") + 1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("INFO Starting to load model", flush=True)
    while _on("late"):
        time.sleep(0.05)
    try:
        Server(("127.0.0.1", port), Handler).serve_forever()
    finally:
        engine.kill()


main()
