"""A broker as one secures it: passwords (SCRAM) over TLS, mutual TLS, and an authorizer that allows what ACLs say."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, but without __all__
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipeline.local import EmbeddedKafka

__all__ = ["ADMIN", "PASSWORD", "Authority", "Secured", "config_file", "secured_broker"]

PASSWORD = "kept-to-itself-7f3a"  # every user's; nothing may print it
ADMIN = "admin"


class Authority:
    """A certificate authority of these tests' own; all it makes lies in ``folder``."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._name = _named(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = folder / f"{name}.pem"
        own = self._signed(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0))
        self.certificate.write_bytes(own)

    def issue(self, name: str) -> Path:
        """A private key and its certificate, for ``name`` and for servers on loopback, in one PEM file."""
        key = ec.generate_private_key(ec.SECP256R1())
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        path = self._folder / f"{name}.pem"
        path.write_bytes(secret + self._signed(_named(name), key, loopback))
        return path

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> bytes:
        now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
        made = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        made = made.not_valid_before(now - day).not_valid_after(now + day).add_extension(extension, critical=True)
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@dataclass(frozen=True, slots=True)
class Secured:
    """A running broker. Its plain listener is the super user's; the others know users, who may do nothing at first."""

    kafka: EmbeddedKafka
    authority: Authority

    @property
    def plain(self) -> str:
        """Address where everyone is the super user."""
        return self.kafka.bootstrap

    @property
    def scram(self) -> str:
        """Address where users log in with a password."""
        return self.kafka.listener("SCRAM")

    @property
    def mutual(self) -> str:
        """Address where users show a certificate."""
        return self.kafka.listener("MUTUAL")

    def add_user(self, name: str) -> dict[str, str]:
        """A new user with a password; how its clients connect to `scram`."""
        admin = AdminClient({"bootstrap.servers": self.plain})
        credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        user = UserScramCredentialUpsertion(name, credential, PASSWORD.encode())
        admin.alter_user_scram_credentials([user])[name].result(30)
        return {
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(self.authority.certificate),
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": name,
            "sasl.password": PASSWORD,
        }

    def certify(self, name: str) -> dict[str, str]:
        """A new user with a certificate; how its clients connect to `mutual`."""
        both = str(self.authority.issue(name))
        return {
            "security.protocol": "SSL",
            "ssl.ca.location": str(self.authority.certificate),
            "ssl.certificate.location": both,
            "ssl.key.location": both,
        }


def config_file(path: Path, kafka: Mapping[str, str]) -> Path:
    """Settings as the file that commands take."""
    path.touch(0o600)
    path.write_text("".join(f"{name}={value}\n" for name, value in kafka.items()))
    return path


@contextmanager
def secured_broker(folder: Path) -> Iterator[Secured]:
    """Start it with certificates made for it in ``folder``."""
    authority = Authority(folder)
    properties = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(authority.issue("broker")),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.certificate),
        "listener.name.mutual.ssl.client.auth": "required",
        "ssl.principal.mapping.rules": "RULE:^CN=(.*)$/$1/",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.scram.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        # Whoever comes by the plain listener (these tests, the broker itself), and one with a password.
        "super.users": f"User:ANONYMOUS;User:{ADMIN}",
    }
    with EmbeddedKafka(properties=properties, listeners={"SCRAM": "SASL_SSL", "MUTUAL": "SSL"}) as kafka:
        yield Secured(kafka, authority)
