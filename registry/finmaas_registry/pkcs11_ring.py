"""The wrapping keys of sealed blobs in a security module, by PKCS#11: AES keys that never leave the token.

The token wraps a data key with AES-256-GCM, the wrapping key's label bound in; what comes out may lie in a database.
Each key is an object `<name>-<number>-<random>` of the token, made there, neither extractable nor readable; the highest
number is the newest. Tried against SoftHSM 2. The library is the extra `hsm` of this package.

A PKCS#11 module has one login a process, so calls are made one after the other. They are few: a process unwraps a data
key once.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from finmaas_core.errors import Corrupt, EnvironmentFault, Unavailable
from finmaas_registry.keyring import KEY_BYTES, NONCE_BYTES, Wrapped

PREFIX = "pkcs11:"
_one_at_a_time = threading.Lock()


class Pkcs11KeyRing:
    """A KeyRing over one token. `module` is the vendor's library, `token` the label that the token was given."""

    def __init__(self, module: Path, token: str, pin: SecretStr, name: str) -> None:
        self._pkcs11 = _import()
        self._module = module
        self._token = token
        self._pin = pin
        self._name = name

    def wrap(self, data_key: bytes) -> Wrapped:
        with self._session() as session:
            label = self._find_newest(session)
        if label is None:
            label = self._make(1)
        nonce = os.urandom(NONCE_BYTES)
        with self._session() as session:
            key = self._get(session, label)
            sealed: bytes = key.encrypt(data_key, mechanism=self._gcm, mechanism_param=self._bind(nonce, label))
        return Wrapped(PREFIX + label, base64.b64encode(nonce + sealed).decode())

    def unwrap(self, wrapped: Wrapped) -> bytes:
        label = wrapped.wrapping_key.removeprefix(PREFIX)
        data = base64.b64decode(wrapped.text)
        param = self._bind(data[:NONCE_BYTES], label)
        with self._session() as session:
            key = self._get(session, label)
            try:
                opened: bytes = key.decrypt(data[NONCE_BYTES:], mechanism=self._gcm, mechanism_param=param)
            except self._refusals as error:
                raise Corrupt(f"a data key was not wrapped by {label} of the token {self._token!r}") from error
        return opened

    def rotate(self) -> str:
        with self._session() as session:
            newest = self._find_newest(session)
        return PREFIX + self._make(1 if newest is None else self._number(newest) + 1)

    def _make(self, number: int) -> str:
        """A new key in the token. Two processes at once make two, and both go on unwrapping."""
        from pkcs11 import Attribute, KeyType

        label = f"{self._name}-{number}-{secrets.token_hex(4)}"
        with self._session(writes=True) as session:
            session.generate_key(
                KeyType.AES,
                KEY_BYTES * 8,
                label=label,
                store=True,
                template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
            )
        return label

    def _find_newest(self, session: Any) -> str | None:
        from pkcs11 import Attribute, ObjectClass

        keys = session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY})
        labels = [label for label in (str(key.label) for key in keys) if self._number(label)]
        return max(labels, key=lambda label: (self._number(label), label), default=None)

    def _number(self, label: str) -> int:
        found = re.fullmatch(rf"{re.escape(self._name)}-([0-9]+)-[0-9a-f]+", label)
        return int(found[1]) if found else 0

    def _get(self, session: Any, label: str) -> Any:
        from pkcs11 import ObjectClass

        try:
            return session.get_key(object_class=ObjectClass.SECRET_KEY, label=label)
        except self._pkcs11.NoSuchKey as error:
            raise EnvironmentFault(
                f"the token {self._token!r} lacks the key {label}; bring the token's backup in, or the right token"
            ) from error

    @property
    def _gcm(self) -> Any:
        return self._pkcs11.Mechanism.AES_GCM

    def _bind(self, nonce: bytes, label: str) -> Any:
        return self._pkcs11.GCMParams(nonce, aad=label.encode())

    @property
    def _refusals(self) -> tuple[type[Exception], ...]:
        """How modules say that a tag does not hold; SoftHSM says `general error`."""
        p = self._pkcs11
        return (p.EncryptedDataInvalid, p.EncryptedDataLenRange, p.GeneralError, p.FunctionFailed, p.DataInvalid)

    @contextmanager
    def _session(self, *, writes: bool = False) -> Iterator[Any]:
        with _one_at_a_time, self._naming_faults():
            token = self._load().get_token(token_label=self._token)
            with token.open(rw=writes, user_pin=self._pin.get_secret_value()) as session:
                yield session

    def _load(self) -> Any:
        if not self._module.is_file():
            raise EnvironmentFault(f"FINMAAS_PKCS11_MODULE names {self._module}, which is not there")
        try:
            return self._pkcs11.lib(str(self._module))
        except (RuntimeError, OSError) as error:
            raise EnvironmentFault(f"the PKCS#11 module {self._module} cannot be loaded ({error!r})") from error

    @contextmanager
    def _naming_faults(self) -> Iterator[None]:
        p = self._pkcs11
        try:
            yield
        except (p.NoSuchToken, p.TokenNotRecognised, p.MultipleTokensReturned) as error:
            raise EnvironmentFault(
                f"no single token of {self._module} has the label {self._token!r}; check FINMAAS_PKCS11_TOKEN"
            ) from error
        except (p.PinIncorrect, p.PinInvalid, p.PinLenRange, p.PinLocked, p.PinExpired) as error:
            raise EnvironmentFault(
                f"the token {self._token!r} refuses our PIN ({type(error).__name__}); check FINMAAS_PKCS11_PIN"
            ) from error
        except p.MechanismInvalid as error:
            raise EnvironmentFault(f"the token {self._token!r} has no AES-GCM; use another, or Vault") from error
        except p.PKCS11Error as error:
            raise Unavailable(
                f"the token {self._token!r} does not answer ({type(error).__name__}); is the security module reachable?"
            ) from error


def _import() -> Any:
    try:
        import pkcs11
    except ImportError as error:
        raise EnvironmentFault(
            "blob_encryption is pkcs11, and its library is not installed: pip install 'finmaas[hsm]'"
        ) from error
    return pkcs11
