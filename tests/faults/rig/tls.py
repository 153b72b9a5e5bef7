"""A certificate authority and a server's certificate for 127.0.0.1 and localhost, made by openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: the authority's certificate, the server's certificate and its key."""

    authority: Path
    certificate: Path
    key: Path


def certificates(directory: Path) -> Certificates:
    """Create both in `directory`. They are valid for a day."""
    directory.mkdir(parents=True, exist_ok=True)
    made = Certificates(directory / "ca.crt", directory / "server.crt", directory / "server.key")
    new_key = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "1",
    ]
    ca_key = directory / "ca.key"
    _openssl(*new_key, "-subj", "/CN=authority", "-keyout", str(ca_key), "-out", str(made.authority))
    signed = [
        "-CA",
        str(made.authority),
        "-CAkey",
        str(ca_key),
        "-addext",
        "subjectAltName=IP:127.0.0.1,DNS:localhost",
    ]
    leaf = ["-subj", "/CN=127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
    _openssl(*new_key, *leaf, *signed, "-keyout", str(made.key), "-out", str(made.certificate))
    return made


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
