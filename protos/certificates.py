"""Certificates minted for one run, so that nobody else can take part in it.

Every rank makes a key of its own and tells only the public half; rank 0 signs them all
with an authority that lives for the length of one function.  No private key is sent to
another host or written anywhere.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from protos.errors import FLError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

# Every certificate carries this name: addresses of a run are not known before it.
NAME = "flsim"
# Clocks of hosts differ; a run lasts days, not years.
_BEFORE, _AFTER = datetime.timedelta(days=1), datetime.timedelta(days=365)


@dataclass(frozen=True)
class Credentials:
    """What a rank shows its peers and what it holds theirs against, in PEM.

    Attributes:
        ca: certificate of the run's authority.
        certificate: of this rank.
        key: private key of this rank; never shown.
    """

    ca: bytes
    certificate: bytes
    key: bytes = field(repr=False)


def make_key() -> tuple[bytes, bytes]:
    """A new P-256 key: its private and its public half, in PEM.

    Raises:
        FLError: the cryptography package is missing.
    """
    try:
        # Here and not at the top: a run on one host needs none of it, and it takes a tenth of a second.
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise FLError(f"a run on several hosts needs the cryptography package on each ({error}): install it") from error
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private, public


def certify(public_keys: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """Makes an authority, signs a certificate for each public key and forgets the authority's own key.

    Args:
        public_keys: of all ranks, in PEM, by rank.

    Returns:
        The authority's certificate and those of the ranks, in PEM.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    authority, name = ec.generate_private_key(ec.SECP256R1()), _name(f"{NAME} authority")
    ca = (
        _begin(name, authority.public_key())
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
    )
    made = []
    for rank, public_key in enumerate(public_keys):
        key = serialization.load_pem_public_key(public_key)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        certificate = (
            _begin(_name(common_name(rank)), key)
            .issuer_name(name)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
            # Every rank is a server to some and a client to others.
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
        )
        made.append(_sign(certificate, authority))
    return _sign(ca, authority), made


def common_name(rank: int) -> str:
    """The name in a rank's certificate."""
    return f"rank {rank}"


def _begin(subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + _AFTER)
    )


def _name(text: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    """An authority signs certificates and nothing else, a rank shows its key and signs none."""
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=False, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _sign(builder: x509.CertificateBuilder, authority: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import hashes, serialization

    return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
