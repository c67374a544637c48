"""Ports for servers that tests start: one that is free, and the wait until a server listens on it."""

from __future__ import annotations

import socket
import subprocess
import time


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until_listening(process: subprocess.Popen[bytes], port: int, seconds: float = 120) -> None:
    """Return when a process accepts connections; RuntimeError where it ends first or takes too long."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args!r} ended with {process.returncode}") from None
            if time.monotonic() > deadline:
                raise RuntimeError(f"{process.args!r} does not listen after {seconds} s") from None
            time.sleep(0.05)
        else:
            return


def end(process: subprocess.Popen[bytes]) -> None:
    """Terminate a process and wait for its end."""
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
