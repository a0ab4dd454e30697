"""A certificate for localhost, 127.0.0.1, ::1 and etl.example, and its key: for tests alone, and known to everybody."""

import ssl
from pathlib import Path

CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBvzCCAWSgAwIBAgIUHEq/aIk5T5BgvjefrSZeDZmiRXgwCgYIKoZIzj0EAwIw
FTETMBEGA1UEAwwKZGFtYWQgdGVzdDAgFw0yNjExMzAxNzM1MTRaGA8yMTI2MTEw
NjE3MzUxNFowFTETMBEGA1UEAwwKZGFtYWQgdGVzdDBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABG+fpdV6cdV3RI53rUXY2SXA9hdMuuDuDR95WKlPJYqWeTXZKW/W
Y9vBhBbNkeDWS3PG3RRviQq97JnJWwInCxOjgY8wgYwwHQYDVR0OBBYEFLuRtYQW
SKBb9lcnlghuSHnE0wKOMB8GA1UdIwQYMBaAFLuRtYQWSKBb9lcnlghuSHnE0wKO
MA8GA1UdEwEB/wQFMAMBAf8wOQYDVR0RBDIwMIIJbG9jYWxob3N0ggtldGwuZXhh
bXBsZYcEfwAAAYcQAAAAAAAAAAAAAAAAAAAAATAKBggqhkjOPQQDAgNJADBGAiEA
1IL5RbkITXI76xFAqujTU7SFXvpKl498qbrI/1if3EUCIQDF5kcZFND5eN6jnqNB
+l8kzr+ZEU+yygsK39NObf0IDA==
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgQQJ4QMmdjkwwA/fE
1LXCjcQXhjKadPqcNA/f8Mdhc3OhRANCAARvn6XVenHVd0SOd61F2NklwPYXTLrg
7g0feVipTyWKlnk12Slv1mPbwYQWzZHg1ktzxt0Ub4kKveyZyVsCJwsT
-----END PRIVATE KEY-----
"""
ENCRYPTED_KEY = """\
-----BEGIN EC PRIVATE KEY-----
Proc-Type: 4,ENCRYPTED
DEK-Info: AES-128-CBC,A2711485516EBCC908C8C56744EF2659

NVG6GDOSZYtjkp/qyP+Qo+zsYZiwXbhAFUdwQtKBmF6PoFaRX9zx6LJQcqnZV1QJ
X/nOElBEdfCbrlPFWFtP+aGHsq76XVujZ1f0AVL3fznrFbf/VVgKtege87161hab
a2LzjtCLdjtyK4JL/7QqUu9qjZQ7QyQF3hNnHfYFyAI=
-----END EC PRIVATE KEY-----
"""


def written(folder: Path) -> dict[str, Path]:
    """The settings of a server that has them, in files of the folder."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_text(CERTIFICATE)
    key.touch(0o600)
    key.write_text(KEY)
    return {"tls_cert": cert, "tls_key": key}


def trusting() -> ssl.SSLContext:
    """What a client needs that trusts this certificate and no other."""
    return ssl.create_default_context(cadata=CERTIFICATE)
