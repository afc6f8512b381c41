"""Which groups' namespaces spoke since they were looked at: sockets that hear every change of links, addresses and routes.

In: ids, inodes of namespaces. Out: whether one must be looked at. At rest it costs one epoll_wait(2) for all of them. A
socket keeps its namespace alive, so `keep` lets go of those whose groups are gone.
"""

from __future__ import annotations

import errno
import resource
import select
import socket
import threading
from collections.abc import Container
from dataclasses import dataclass

_GROUPS = 0x1 | 0x4 | 0x10 | 0x40  # RTMGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE


@dataclass(slots=True)
class _Ear:
    socket: socket.socket
    inode: int
    spoke: bool = True


class Watch:
    """Safe for threads. Where no more descriptors may be taken, a namespace counts as one that always speaks."""

    def __init__(self) -> None:
        self._ears: dict[str, _Ear] = {}
        self._by_fd: dict[int, _Ear] = {}
        self._poll = select.epoll()
        self._mutex = threading.Lock()

    def spoke(self, id: str, inode: int) -> bool:
        """Whether anything changed in that namespace since `listen`, or nobody listens to this very one."""
        with self._mutex:
            self._hear()
            ear = self._ears.get(id)
        return ear is None or ear.spoke or ear.inode != inode

    def listen(self, id: str, inode: int) -> None:
        """From now on; to be called in the namespace, and before it is looked at, so that nothing is missed."""
        with self._mutex:
            self._hear()
            ear = self._ears.get(id)
            if ear is not None and ear.inode == inode:
                ear.spoke = False
                return
            self._drop(id)
            if len(self._ears) >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2:
                return
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            each = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
            each.bind((0, _GROUPS))
            ear = _Ear(each, inode, spoke=False)
            self._ears[id], self._by_fd[each.fileno()] = ear, ear
            self._poll.register(each.fileno(), select.EPOLLIN)

    def drop(self, id: str) -> None:
        with self._mutex:
            self._drop(id)

    def keep(self, ids: Container[str]) -> None:
        """Let go of all others."""
        with self._mutex:
            for id in [each for each in self._ears if each not in ids]:
                self._drop(id)

    def doubt(self, id: str) -> None:
        """What was found there was not right: look again next time."""
        with self._mutex:
            if id in self._ears:
                self._ears[id].spoke = True

    def _hear(self) -> None:
        for fd, _ in self._poll.poll(0):
            ear = self._by_fd[fd]
            ear.spoke = True
            _drain(ear.socket)

    def _drop(self, id: str) -> None:
        ear = self._ears.pop(id, None)
        if ear is not None:
            self._by_fd.pop(ear.socket.fileno())
            self._poll.unregister(ear.socket.fileno())
            ear.socket.close()


def _drain(each: socket.socket) -> None:
    while True:
        try:
            each.recv(65536)
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # more was said than fits; EAGAIN: that was all
                return
