"""TLS, client certificates and tokens, against a server that asks for them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from conftest import ServerProcess, server_program
from oracle import attend, relative_l2

from sage_client import Client, Credentials, InvalidArgumentError, SageError
from sage_client.credentials import is_local


class Authority:
    """A certificate authority, whose certificates are files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.ca = str(folder / "ca.pem")
        self._openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test", "-days", "1"),
        )

    def issue(self, name: str, alternative: str) -> tuple[str, str]:
        """Certificate and key."""
        self._openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"),
        )
        (self.folder / "extensions").write_text(f"subjectAltName={alternative}\n")
        self._openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-days", "1", "-extfile", "extensions", "-out", f"{name}.new"),
        )
        (self.folder / f"{name}.new").replace(self.folder / f"{name}.pem")
        return str(self.folder / f"{name}.pem"), str(self.folder / f"{name}.key")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)


@dataclasses.dataclass
class SecureServer:
    address: str
    authority: Authority
    tokens: Path

    def make_token(self, tenant: str) -> str:
        made = subprocess.run(
            [server_program(), "make-token", tenant, "--tokens", str(self.tokens)],
            check=True,
            capture_output=True,
            text=True,
        )
        return made.stdout.strip()


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureServer]:
    """Takes certificates and tokens."""
    folder = tmp_path_factory.mktemp("secure")
    authority = Authority(folder / "authority")
    cert, key = authority.issue("server", "IP:127.0.0.1")
    tokens = folder / "tokens.toml"
    tokens.touch()
    process = ServerProcess(
        *("--tls-cert", cert, "--tls-key", key, "--tls-client-ca", authority.ca),
        *("--tokens", str(tokens)),
    )
    yield SecureServer(process.address, authority, tokens)
    process.stop()


def private(path: Path, text: str) -> str:
    path.touch(0o600)
    path.write_text(text)
    return str(path)


def test_a_token_over_tls(secure: SecureServer, rng: np.random.Generator) -> None:
    credentials = Credentials(ca=secure.authority.ca, token=secure.make_token("team-a"))
    client = Client(secure.address, timeout=60, credentials=credentials)
    assert client.info()[0].tenant == "team-a"
    # One message, a stream, and tensors that stay.
    for heads, seqlen in ((2, 130), (16, 700)):
        q, k, v = (
            rng.standard_normal((1, heads, seqlen, 64), np.float32).astype(np.float16)
            for _ in range(3)
        )
        expected = attend(q, k, v)[0]
        assert relative_l2(client.attend(q, k, v).out, expected) <= 0.03
        with client.put(k, v) as kept:
            assert relative_l2(kept.attend(q).out, expected) <= 0.03


def test_a_certificate(secure: SecureServer) -> None:
    cert, key = secure.authority.issue("alice", "DNS:alice.example")
    credentials = Credentials(ca=secure.authority.ca, cert=cert, key=key)
    client = Client(secure.address, timeout=60, credentials=credentials)
    assert client.info()[0].tenant == "alice.example"
    # New files, new connections.
    secure.authority.issue("alice", "DNS:alice-again.example")
    assert client.info()[0].tenant == "alice-again.example"


def test_a_token_file_is_read_again(secure: SecureServer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    credentials = Credentials(
        ca=secure.authority.ca, token_file=private(file, secure.make_token("team-a") + "\n")
    )
    client = Client(secure.address, timeout=60, credentials=credentials)
    assert client.info()[0].tenant == "team-a"
    file.write_text(secure.make_token("team-b"))
    assert client.info()[0].tenant == "team-b"
    file.unlink()
    assert client.info()[0].tenant == "team-b"


def test_the_environment_has_credentials(
    secure: SecureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_SERVER", secure.address)
    monkeypatch.setenv("SAGE_CA", secure.authority.ca)
    monkeypatch.setenv("SAGE_TOKEN", secure.make_token("team-e"))
    assert Client(timeout=60).info()[0].tenant == "team-e"


def test_bad_credentials(secure: SecureServer) -> None:
    for credentials in (
        Credentials(ca=secure.authority.ca),
        Credentials(ca=secure.authority.ca, token="sage_guess"),
    ):
        with pytest.raises(SageError) as caught:
            Client(secure.address, timeout=60, credentials=credentials).info()
        assert caught.value.code == grpc.StatusCode.UNAUTHENTICATED
        assert "sage_guess" not in repr(credentials)
    with pytest.raises(SageError) as caught:
        Client(secure.address, timeout=60, credentials=Credentials()).info()
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE


def test_a_token_stays_within_the_machine_without_tls(tmp_path: Path) -> None:
    for address in ("127.0.0.1:1", "127.9.9.9:1", "localhost:1", "[::1]:1", "unix:/x"):
        assert is_local(address)
        Client(address, credentials=Credentials(token="t"))
    for address in ("10.0.0.5:1", "example.com:1", "127.example.com:1", "dns:///127.0.0.1:1"):
        assert not is_local(address)
        with pytest.raises(InvalidArgumentError, match="without TLS"):
            Client(["127.0.0.1:1", address], credentials=Credentials(token="t"))
        Client(address, credentials=Credentials(token="t", ca="system"))


def test_bad_files_are_refused(tmp_path: Path) -> None:
    def refused(match: str, **credentials: str) -> None:
        with pytest.raises(InvalidArgumentError, match=match):
            Client("127.0.0.1:1", credentials=Credentials(**credentials))

    file = tmp_path / "token"
    private(file, "t")
    os.chmod(file, 0o604)
    refused(f"every user of this machine may read.*chmod 600 {file}", token_file=str(file))
    os.chmod(file, 0o600)
    refused("one of them", token="t", token_file=str(file))
    file.write_text("a b")
    refused("one token", token_file=str(file))
    refused("one token", token="t\r\nx: y")
    refused("No such file", token_file=str(tmp_path / "none"))
    refused("No such file", ca=str(tmp_path / "none"))
    refused("both or none", cert=str(file))
