"""Certificates of HTTPS servers: the trusted authorities, and what is wrong with a rejected certificate."""

import os
import ssl
from collections.abc import Callable

from orchestrator.errors import UsageError

_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR")


def client_context(
    url: str, create: Callable[..., ssl.SSLContext] = ssl.create_default_context
) -> ssl.SSLContext:
    """Return the TLS context for requests to a URL, made by `create`.

    The trusted authorities are those of the first of SSL_CERT_FILE, REQUESTS_CA_BUNDLE and SSL_CERT_DIR that
    is set, else those of certifi and of the system. Raises UsageError when they cannot be read.
    """
    if not url.lower().startswith("https:"):
        # Loading the authorities takes 20 ms. Without any, a connection with TLS would fail.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    variable = next((name for name in _VARIABLES if os.environ.get(name)), None)
    if variable is None:
        import certifi

        context = create()
        context.load_verify_locations(certifi.where())
        return context
    path = os.environ[variable]
    try:
        return create(capath=path) if os.path.isdir(path) else create(cafile=path)
    except OSError as error:
        # An SSLError is an OSError: the file has no certificate.
        reason = "it has no certificate in PEM format" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(f"{variable} ({path}) cannot be used: {reason}") from error


def rejection(error: BaseException) -> str | None:
    """Return what is wrong with the certificate that caused this error; None for any other error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            advice = {
                10: "renew it",
                18: _TRUST,
                19: _TRUST,
                20: _TRUST,
                62: "use a name of the certificate in the URL",
                64: "use an address of the certificate in the URL",
            }.get(cause.verify_code)
            return cause.verify_message + (f"; {advice}" if advice else "")
        cause = cause.__cause__ or cause.__context__
    return None


_TRUST = "set SSL_CERT_FILE to the certificate of its authority"
