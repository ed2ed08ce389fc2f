"""Who a client is to its servers: certificates and tokens, and where they may go."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from .errors import invalid

SYSTEM_CA = "system"


@dataclass(frozen=True)
class Credentials:
    """Files, PEM but for the token; they are read again when they have changed.

    Attributes:
        ca: TLS: whose certificates a server may show; "system" for those that gRPC trusts by
            itself. None, and no `cert`: nothing is encrypted.
        cert: the client's own certificate, with its chain.
        key: its private key.
        token: sent with every call, over TLS or within this machine only.
        token_file: a file that holds it, in its place; other users must not be able to read it.

    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    token: str | None = field(default=None, repr=False)
    token_file: str | None = None

    @staticmethod
    def from_environment() -> Credentials:
        """What SAGE_CA, SAGE_CERT, SAGE_KEY, SAGE_TOKEN and SAGE_TOKEN_FILE say."""
        names = ("ca", "cert", "key", "token", "token_file")
        return Credentials(*(os.environ.get(f"SAGE_{name.upper()}") or None for name in names))

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return bool(self.ca or self.cert or self.key)

    def check(self, address: str) -> None:
        """InvalidArgumentError where they are not complete, or not for this server."""
        if bool(self.cert) != bool(self.key):
            raise invalid("credentials", "one of cert and key", "both or none")
        if self.token and self.token_file:
            raise invalid("credentials", "token and token_file", "one of them")
        self.version()
        self.channel_credentials()
        self.read_token()
        if (self.token or self.token_file) and not self.tls and not is_local(address):
            raise invalid(
                "credentials.token",
                f"{address} without TLS",
                "TLS, or unix:PATH and loopback addresses of this machine",
            )

    def version(self) -> tuple[int, ...]:
        """Another one where a certificate's file has changed."""
        files = (self.ca if self.ca != SYSTEM_CA else None, self.cert, self.key)
        try:
            return tuple(os.stat(path).st_mtime_ns for path in files if path)
        except OSError as error:
            raise invalid("credentials", error, "files that can be read") from None

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """For gRPC; None without TLS."""
        if not self.tls:
            return None
        ca = None if self.ca in (None, SYSTEM_CA) else self.ca
        try:
            root, key, cert = (
                Path(p).read_bytes() if p else None for p in (ca, self.key, self.cert)
            )
        except OSError as error:
            raise invalid("credentials", error, "files that can be read") from None
        return grpc.ssl_channel_credentials(root, key, cert)

    def read_token(self) -> str | None:
        """The token, if there is one."""
        if not self.token_file:
            return _checked("credentials.token", self.token) if self.token else None
        try:
            if os.stat(self.token_file).st_mode & stat.S_IROTH:
                raise invalid(
                    "credentials.token_file",
                    f"{self.token_file}, which every user of this machine may read",
                    f"one of your own: chmod 600 {self.token_file}",
                )
            token = Path(self.token_file).read_text("ascii", "replace").strip()
        except OSError as error:
            raise invalid("credentials.token_file", error, "a file that can be read") from None
        return _checked("credentials.token_file", token)


@dataclass(frozen=True)
class Server:
    """A server, and who the client is to it."""

    address: str
    credentials: Credentials = Credentials()


def is_local(address: str) -> bool:
    """Whether an address is of this machine, whatever a name server says."""
    host = address.rpartition(":")[0]
    return address.startswith("unix:") or host in ("localhost", "[::1]") or _is_loopback(host)


def _is_loopback(host: str) -> bool:
    parts = host.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(part.isdecimal() for part in parts)


def _checked(name: str, token: str) -> str:
    if not token or not all("!" <= c <= "~" for c in token):
        raise invalid(name, "something else", "one token, of visible ASCII characters")
    return token
