"""A real server for the suite, and fresh random inputs."""

from __future__ import annotations

import os
import random
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sage_client import Client

REPOSITORY = Path(__file__).resolve().parents[3]


def server_program() -> str:
    """The release build's sage-server; SAGE_SERVER_PROGRAM names another."""
    default = REPOSITORY / "build" / "release" / "bin" / "sage-server"
    return os.environ.get("SAGE_SERVER_PROGRAM", str(default))


class ServerProcess:
    """A sage-server on a free port."""

    def __init__(self, *options: str) -> None:
        program = server_program()
        listen = [] if "--listen" in options else ["--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [program, "--backend", "cpu", *listen, *options],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        log = []
        for line in self.process.stderr:  # until it says that it is ready
            log.append(line)
            ready = re.search(r"event=ready port=(\d+)", line)
            if ready:
                self.address = f"127.0.0.1:{ready.group(1)}"
                break
        else:
            raise RuntimeError(f"{program} did not start: {''.join(log)}")
        # Nobody wants what follows, but it must not fill the pipe.
        self._drain = threading.Thread(target=self.process.stderr.read, daemon=True)
        self._drain.start()

    def stop(self) -> None:
        self.process.terminate()
        assert self._wait() == 0

    def kill(self) -> None:
        self.process.kill()
        self._wait()

    def _wait(self) -> int:
        status = self.process.wait(timeout=60)
        self._drain.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    process = ServerProcess()
    yield process.address
    process.stop()


@pytest.fixture(scope="session")
def client(server: str) -> Client:
    return Client(server, timeout=120)


@pytest.fixture
def rng() -> np.random.Generator:
    """Fresh numbers; a failure shows the seed, SAGE_TEST_SEED repeats it."""
    seed = int(os.environ.get("SAGE_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"SAGE_TEST_SEED={seed}")
    return np.random.default_rng(seed)


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port that refuses connections: bound, and never listened on."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]
