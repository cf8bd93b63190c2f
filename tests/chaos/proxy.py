"""A proxy between smeta and PostgreSQL that knows where one message ends and the next begins.

It passes everything on, keeps a list of what the client sent, and stops at one chosen message of the first
connection: there a fault happens. Framing: https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

_CANCEL, _SSL, _GSS = 80877102, 80877103, 80877104
STARTUP, QUERY, PARSE, EXECUTE, FLUSH, SYNC, TERMINATE = "startup", "Q", "P", "E", "H", "S", "X"
_PORT = 5432  # names the socket only
_PATIENCE = 10.0  # seconds for something that takes milliseconds


class Moment(StrEnum):
    """Where around a message the fault happens."""

    BEFORE = "before"  # the message is held back
    SENT = "sent"  # the server has it; its answer is held back
    INSIDE = "inside"  # the server works on it, and is made to wait for a lock in the middle
    ANSWERED = "answered"  # the answer has arrived here and is held back


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message of the client."""

    number: int  # within its connection; the startup packet is 0
    kind: str
    text: str  # the SQL of Query and Parse

    @property
    def commits(self) -> bool:
        """Whether it is a COMMIT that travels alone."""
        return self.kind == QUERY and self.text.strip().lower() == "commit"

    @property
    def alone(self) -> bool:
        """Whether it is a statement of a migration outside any transaction."""
        return self.kind == QUERY and self.text.lower().startswith(
            ("create index concurrently", "drop index concurrently", "reindex", "alter table", "vacuum")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trap:
    """What happens where: called once, in the thread that carries the client's messages."""

    number: int
    moment: Moment
    spring: Callable[[Link], None]
    inside: Callable[[Link], None] = lambda _link: None  # returns once the server waits in the middle
    prepare: Callable[[], None] = lambda: None  # before the message is handed on


class Link:
    """One connection of a client and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, index: int, client: socket.socket) -> None:
        self.proxy, self.index, self.client = proxy, index, client
        self.server = proxy.reach_server()
        self.sent: list[Message] = []
        self.backend: int | None = None  # process id of the server process
        self.server_gone = threading.Event()
        self._changed = threading.Condition()
        self._held: list[bytes] | None = None  # answers that are held back
        self._unanswered = 0  # Query, Sync and the startup packet: what a ReadyForQuery answers
        self._executing = 0  # Execute: answered by a completion, or skipped up to Sync after an error
        self._swallowing = False

    def carry(self) -> None:
        """Carry messages until one side is gone."""
        back = threading.Thread(target=self._carry_back, name="back", daemon=True)
        try:
            if not self._start(back):
                return
            while message := _read_message(self.client):
                self._pass(message)
        except OSError:
            pass
        finally:
            if not self._swallowing:
                self.sever()
            if back.ident:
                back.join(_PATIENCE)

    def _start(self, back: threading.Thread) -> bool:
        while True:
            packet = _read(self.client, 8)
            if packet is None:
                return False
            length, code = struct.unpack("!II", packet)
            if code in (_SSL, _GSS):
                self.client.sendall(b"N")
                continue
            packet += _read(self.client, length - 8) or b""
            if code == _CANCEL:
                self.proxy.cancelled.set()
                self.server.sendall(packet)
                self.server.recv(1)  # the server closes once it has done it
                return False
            self.proxy.opened(self)
            back.start()
            self._pass(packet, kind=STARTUP)
            return True

    def _pass(self, packet: bytes, kind: str = "") -> None:
        kind = kind or chr(packet[0])
        text = ""
        if kind == QUERY:
            text = packet[5:-1].decode()
        elif kind == PARSE:
            text = packet[5:].split(b"\0")[1].decode()
        message = Message(number=len(self.sent), kind=kind, text=text)
        self.sent.append(message)
        trap = self.proxy.trap
        if not trap or self.index != 0 or trap.number != message.number:
            self._forward(packet, kind)
            return
        self.proxy.at = message
        if trap.moment is Moment.BEFORE:
            trap.spring(self)
            self.proxy.sprung.set()
            self._forward(packet, kind)
            return
        trap.prepare()
        with self._changed:
            self._held = []
        self._forward(packet, kind)
        if trap.moment is Moment.ANSWERED:
            self._wait_for_answer(kind)
        if trap.moment is Moment.INSIDE:
            trap.inside(self)
        trap.spring(self)
        self.proxy.sprung.set()
        self._let_go()

    def _forward(self, packet: bytes, kind: str) -> None:
        with self._changed:
            self._unanswered += kind in (STARTUP, QUERY, SYNC)
            self._executing += kind == EXECUTE
        self.server.sendall(packet)

    def _wait_for_answer(self, kind: str) -> None:
        def answered() -> bool:
            if self.server_gone.is_set():
                return True
            return self._executing == 0 if kind == FLUSH else self._unanswered == 0

        with self._changed:
            if not self._changed.wait_for(answered, _PATIENCE):
                self.proxy.failure = f"no answer to message {len(self.sent) - 1} ({kind})"

    def _let_go(self) -> None:
        """Hand on what is held."""
        with self._changed, contextlib.suppress(OSError):
            held, self._held = self._held or [], None
            for packet in held:
                self.client.sendall(packet)
            if self.server_gone.is_set():
                self._close(self.client)

    def _carry_back(self) -> None:
        try:
            while packet := _read_message(self.server):
                kind = chr(packet[0])
                if kind == "K":
                    self.backend = struct.unpack("!I", packet[5:9])[0]
                with self._changed:
                    if kind in "CsIE":
                        # After an error the server answers none of what follows up to Sync.
                        self._executing = 0 if kind == "E" else max(0, self._executing - 1)
                    if kind == "Z":
                        self._unanswered, self._executing = max(0, self._unanswered - 1), 0
                    if self._held is not None:
                        self._held.append(packet)
                    elif not self._swallowing:
                        self.client.sendall(packet)
                    self._changed.notify_all()
        except OSError:
            pass
        finally:
            with self._changed:
                self.server_gone.set()
                self._changed.notify_all()
                if self._held is None:
                    self._close(self.client)

    # what faults do

    def sever(self) -> None:
        """Cut both sides; the client gets nothing that was held back."""
        with self._changed:
            if self._held is not None:
                self._held = []
        self._close(self.client)
        self._close(self.server)

    def swallow(self) -> None:
        """Lose the client's side only: the server goes on believing that somebody listens."""
        self._swallowing = True
        with self._changed:
            self._held = []
        self.proxy.orphans.append(self)
        self._close(self.client)

    def drop(self) -> None:
        """Let the server learn that nobody listens."""
        self._close(self.server)

    @staticmethod
    def _close(end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class Proxy:
    """Listens on a socket of its own and passes on to the server's."""

    def __init__(self, server_socket: Path) -> None:
        self._upstream = str(server_socket / f".s.PGSQL.{_PORT}")
        self.directory = Path(tempfile.mkdtemp(prefix="smeta-proxy-"))
        self.links: list[Link] = []  # in the order in which they were opened; requests to cancel are none
        self.orphans: list[Link] = []
        self.trap: Trap | None = None
        self.at: Message | None = None  # the message at which the trap was reached
        self.sprung = threading.Event()
        self.cancelled = threading.Event()
        self.failure: str | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.directory / f".s.PGSQL.{_PORT}"))
        self._listener.listen()
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._accepting.start()

    def reach_server(self) -> socket.socket:
        """A new connection to the server."""
        end = socket.socket(socket.AF_UNIX)
        self._sockets.append(end)
        end.connect(self._upstream)
        return end

    def opened(self, link: Link) -> None:
        """A client has sent its startup packet; the first one to do so is the connection that works."""
        link.index = len(self.links)
        self.links.append(link)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            try:
                link = Link(self, -1, client)
            except OSError:  # the server does not listen just now
                client.close()
                continue
            thread = threading.Thread(target=link.carry, name="link", daemon=True)
            self._threads.append(thread)
            thread.start()

    def drop_orphans(self) -> None:
        """What a network does after hours: the server's side of a lost connection ends too."""
        while self.orphans:
            self.orphans.pop().drop()

    def close(self) -> None:
        """End everything."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for end in (*self._sockets, self._listener):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + _PATIENCE
        for thread in (self._accepting, *self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))
        for end in (*self._sockets, self._listener):
            end.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read(end: socket.socket, count: int) -> bytes | None:
    """So many bytes; None where the other side has closed."""
    found = bytearray()
    while len(found) < count:
        piece = end.recv(count - len(found))
        if not piece:
            return None
        found += piece
    return bytes(found)


def _read_message(end: socket.socket) -> bytes | None:
    """A whole message: type, length, body."""
    head = _read(end, 5)
    if head is None:
        return None
    body = _read(end, struct.unpack("!I", head[1:])[0] - 4)
    return None if body is None else head + body
