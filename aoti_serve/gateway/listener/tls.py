"""TLS by certificate and key."""

from __future__ import annotations

import ssl

from aoti_serve.config import Tls
from aoti_serve.errors import BadCertificate


def tls_context(tls: Tls) -> ssl.SSLContext:
    """The TLS context of an HTTP/1.1 server. Raises BadCertificate if the files cannot be read or do not match."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    try:
        # OpenSSL would ask for a password at the terminal of a process that has none.
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise BadCertificate(certificate=tls.certificate, key=tls.key, detail=str(error)) from None
    return context
