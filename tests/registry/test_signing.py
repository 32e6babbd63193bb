"""Signatures of versions: made from digests, and verified by the library's own command as by ours."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from finmaas_core.errors import BadSignature, EnvironmentFault
from finmaas_registry.keys import FileSigningKey, MemorySigningKey, SigningKeyRing
from finmaas_registry.manifest import FileEntry
from finmaas_registry.signing import TrustRoot, key_id_of, read_trust_root, sign_version, verify_version

REF = "default/default/intents@3"
CONTENT = {"config.json": b"{}", "model.safetensors": b"weights" * 100, "sub/tokenizer.json": b"{ }"}
FILES = tuple(FileEntry(path, hashlib.sha256(data).hexdigest(), len(data)) for path, data in CONTENT.items())


def changed(path: str) -> tuple[FileEntry, ...]:
    return tuple(FileEntry(f.path, "0" * 64, f.size) if f.path == path else f for f in FILES)


class TestKeys:
    @pytest.fixture(params=["memory", "file", "file with a passphrase"])
    def ring(self, request: pytest.FixtureRequest, tmp_path: Path) -> SigningKeyRing:
        makers: dict[str, Callable[[], SigningKeyRing]] = {
            "memory": MemorySigningKey,
            "file": lambda: FileSigningKey(tmp_path / "key.pem"),
            "file with a passphrase": lambda: FileSigningKey(tmp_path / "key.pem", "open sesame"),
        }
        return makers[request.param]()

    def test_what_one_signs_its_public_key_verifies(self, ring: SigningKeyRing) -> None:
        signed = sign_version(ring, REF, FILES)
        key_id = verify_version(signed.bundle, TrustRoot.of(ring.public_key()), REF, FILES)
        assert key_id == signed.key_id == key_id_of(ring.public_key())

    def test_a_file_is_made_once_and_for_its_owner_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "secrets" / "key.pem"
        public = FileSigningKey(path, "secret").public_key()
        assert (path.stat().st_mode & 0o777, FileSigningKey(path, "secret").public_key()) == (0o600, public)
        assert b"ENCRYPTED" in path.read_bytes()
        with pytest.raises(EnvironmentFault, match="PASSPHRASE"):
            FileSigningKey(path, "wrong").public_key()
        path.chmod(0o640)
        with pytest.raises(EnvironmentFault, match="chmod 600"):
            FileSigningKey(path, "secret").sign(b"")

    def test_another_kind_of_key_is_refused(self, tmp_path: Path) -> None:
        key = ec.generate_private_key(ec.SECP384R1())
        encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (tmp_path / "key.pem").write_bytes(key.private_bytes(*encoding))
        (tmp_path / "key.pem").chmod(0o600)
        with pytest.raises(EnvironmentFault, match="P-256"):
            FileSigningKey(tmp_path / "key.pem").public_key()


class TestTrustRoot:
    def test_holds_several_keys(self, tmp_path: Path) -> None:
        rings = [MemorySigningKey(), MemorySigningKey()]
        path = tmp_path / "root.pem"
        path.write_bytes(b"# approvers\n" + b"\n".join(ring.public_key() for ring in rings))
        root = read_trust_root(path)
        for ring in rings:
            verify_version(sign_version(ring, REF, FILES).bundle, root, REF, FILES)

    @pytest.mark.parametrize("text", ["", "no key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
    def test_one_that_cannot_be_used_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "root.pem").write_text(text)
        with pytest.raises(EnvironmentFault, match="trust root"):
            read_trust_root(tmp_path / "root.pem")
        with pytest.raises(EnvironmentFault, match="cannot be read"):
            read_trust_root(tmp_path / "nowhere.pem")


class TestVerify:
    ring = MemorySigningKey()
    trust = TrustRoot.of(ring.public_key())

    def test_the_librarys_own_verifier_takes_a_pulled_folder(self, tmp_path: Path) -> None:
        from model_signing import verifying

        for path, data in CONTENT.items():
            target = tmp_path / "model" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        (tmp_path / "model.sig").write_text(sign_version(self.ring, REF, FILES).bundle)
        (tmp_path / "key.pem").write_bytes(self.ring.public_key())
        config = verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / "key.pem")
        config.verify(tmp_path / "model", tmp_path / "model.sig")
        (tmp_path / "model" / "config.json").write_bytes(b"{ }")
        with pytest.raises(ValueError, match="mismatch"):
            config.verify(tmp_path / "model", tmp_path / "model.sig")

    @pytest.mark.parametrize(
        ("ref", "files", "said"),
        [
            (REF, changed("model.safetensors"), "model.safetensors changed"),
            (REF, FILES[:2], "sub/tokenizer.json changed"),
            (REF, (*FILES, FileEntry("extra.json", "1" * 64, 1)), "extra.json changed"),
            ("default/default/intents@4", FILES, "made for default/default/intents@3"),
        ],
    )
    def test_another_list_of_files_or_another_name_is_refused(
        self, ref: str, files: tuple[FileEntry, ...], said: str
    ) -> None:
        with pytest.raises(BadSignature, match=said):
            verify_version(sign_version(self.ring, REF, FILES).bundle, self.trust, ref, files)

    def test_a_missing_or_foreign_signature_is_refused(self) -> None:
        with pytest.raises(BadSignature, match="bears no signature"):
            verify_version(None, self.trust, REF, FILES)
        with pytest.raises(BadSignature, match="does not hold under any trusted key"):
            verify_version(sign_version(MemorySigningKey(), REF, FILES).bundle, self.trust, REF, FILES)
        with pytest.raises(BadSignature, match="no key is trusted"):
            verify_version(sign_version(self.ring, REF, FILES).bundle, TrustRoot(()), REF, FILES)

    @pytest.mark.parametrize("bundle", ["", "{}", "[]", "null", '{"verificationMaterial": {}}', "{" * 10_000])
    def test_what_is_no_bundle_is_refused(self, bundle: str) -> None:
        with pytest.raises(BadSignature):
            verify_version(bundle, self.trust, REF, FILES)

    def test_a_changed_statement_is_refused(self) -> None:
        """Somebody who swaps a digest inside the signed statement, and the row with it, lacks the key."""
        bundle = json.loads(sign_version(self.ring, REF, FILES).bundle)
        envelope = bundle["dsseEnvelope"]
        statement = base64.b64decode(envelope["payload"]).decode().replace(FILES[1].sha256, "0" * 64)
        envelope["payload"] = base64.b64encode(statement.encode()).decode()
        with pytest.raises(BadSignature, match="does not hold"):
            verify_version(json.dumps(bundle), self.trust, REF, changed("model.safetensors"))

    def test_a_bundle_that_names_no_key_is_refused(self) -> None:
        bundle = json.loads(sign_version(self.ring, REF, FILES).bundle)
        bundle["verificationMaterial"]["publicKey"] = {}
        with pytest.raises(BadSignature, match="names no key"):
            verify_version(json.dumps(bundle), self.trust, REF, FILES)
