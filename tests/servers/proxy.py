"""A TCP proxy for tests: it ends TLS in front of a server, cuts connections at a byte, and points to another server."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_MOST = 1 << 16


class Proxy:
    """Carries connections to a port of 127.0.0.1.

    Attributes
    ----------
    port
        Where it listens, on 127.0.0.1.
    target
        The port that connections opened from now on lead to.
    cut_after
        After how many bytes of requests each connection opened from now on is cut; None: never.
    carried
        How many bytes of requests came through, of all connections.
    """

    def __init__(self, target: int, context: ssl.SSLContext | None = None) -> None:
        self.target = target
        self.cut_after: int | None = None
        self.carried = 0
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def drop(self) -> None:
        """Cut all connections that are open."""
        with self._lock:
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it and all connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        self.drop()
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            thread = threading.Thread(target=self._carry, args=(client, self.target, self.cut_after))
            self._threads.append(thread)
            thread.start()

    def _carry(self, client: socket.socket, target: int, left: int | None) -> None:
        """Carry one connection, in one thread: a TLS socket is not for two at once."""
        with suppress(OSError), client:  # of TLS too
            self._begin(client)
            client = self._context.wrap_socket(client, server_side=True) if self._context else client
            with client, socket.create_connection(("127.0.0.1", target)) as server:
                self._begin(client, server)
                self._pump(client, server, left)

    def _begin(self, *ends: socket.socket) -> None:
        with self._lock:
            self._open.update(ends)

    def _pump(self, client: socket.socket, server: socket.socket, left: int | None) -> None:
        while True:
            has_more = isinstance(client, ssl.SSLSocket) and client.pending()
            ready = [client] if has_more else select.select([client, server], [], [])[0]
            for end in ready:
                data = end.recv(_MOST)
                if not data:
                    return
                if end is server:
                    client.sendall(data)
                    continue
                server.sendall(data[:left])
                self.carried += len(data)
                if left is not None:
                    left -= len(data)
                    if left <= 0:
                        return


@contextmanager
def running_proxy(target: int, context: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """Start a proxy, and end it afterwards."""
    proxy = Proxy(target, context)
    try:
        yield proxy
    finally:
        proxy.close()
