"""Certificates of HTTPS servers: the trusted authorities, and the reason for a rejected certificate."""

import os
import ssl
from collections.abc import Callable

from orchestrator.errors import UsageError

_TRUST = "set SSL_CERT_FILE to the certificate of its authority"
_ADVICE = {
    10: "renew it",  # X509_V_ERR_CERT_HAS_EXPIRED
    18: _TRUST,  # X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT
    19: _TRUST,  # X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN
    20: _TRUST,  # X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    62: "use a name of the certificate in the URL",  # X509_V_ERR_HOSTNAME_MISMATCH
    64: "use an address of the certificate in the URL",  # X509_V_ERR_IP_ADDRESS_MISMATCH
}
"""By OpenSSL's verification code."""

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
        # SSL_CERT_DIR can have several directories, separated by colons.
        is_directory = variable == "SSL_CERT_DIR" or os.path.isdir(path)
        return create(capath=path) if is_directory else create(cafile=path)
    except OSError as error:
        # An SSLError is an OSError: the file has no certificate.
        reason = "it has no certificate in PEM format" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(f"{variable} ({path}) cannot be used: {reason}") from error


def rejection(error: BaseException) -> str | None:
    """Return why a certificate was rejected, with advice; None if the error has another cause."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            advice = _ADVICE.get(cause.verify_code)
            return cause.verify_message + (f"; {advice}" if advice else "")
        cause = cause.__cause__ or cause.__context__
    return None
