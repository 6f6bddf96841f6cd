"""Who made a bundle: a detached signature of its manifest, as `ssh-keygen` writes it.

    ssh-keygen -Y sign -f KEY -n psamf-edge-bundle mine.psamf/manifest.json    # writes manifest.json.sig beside it
    psamf-edge infer talk.mp4 --bundle mine.psamf --require-signature KEY.pub

The manifest holds the SHA-256 of every other file, so its signature covers them all. Keys are Ed25519. The format is
OpenSSH's PROTOCOL.sshsig; the curve is left to the `cryptography` package, an extra.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from psamf_edge.errors import IntegrityError, MissingDependencyError, UsageError

NAMESPACE = b"psamf-edge-bundle"  # what was signed for anything else, such as a commit, does not count here
MAX_KEYS_BYTES = 1 << 16  # a key takes about 100; this many are a keyring of several hundred
MAX_SIGNATURE_BYTES = 1 << 12  # ours take about 300
_ARMOUR = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_MAGIC, _VERSION = b"SSHSIG", (1).to_bytes(4, "big")
_ALGORITHM = b"ssh-ed25519"
_HASHES = {b"sha512": hashlib.sha512, b"sha256": hashlib.sha256}  # all that the format allows


def read_keys(path: Path | str) -> frozenset[bytes]:
    """The public keys that are trusted: one a line, as in a .pub file of `ssh-keygen -t ed25519`.

    Returns:
        each key in OpenSSH's binary form.

    Raises:
        UsageError: the file cannot be read, or a line of it is no Ed25519 public key.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_KEYS_BYTES + 1).decode("ascii", "replace")
    except OSError as error:
        raise UsageError(f"The key file {path} cannot be read ({error.strerror}); give a public key file.") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines or len(text) > MAX_KEYS_BYTES:
        raise UsageError(f"The key file {path} must hold 1 to {MAX_KEYS_BYTES} bytes of public keys, one a line.")
    return frozenset(_public_key(path, line) for line in lines)


def verify(content: bytes, signature: bytes, keys: frozenset[bytes]) -> None:
    """Check that one of the keys signed the content for NAMESPACE.

    Args:
        content: what was signed.
        signature: a file that `ssh-keygen -Y sign` wrote.
        keys: from `read_keys`.

    Raises:
        IntegrityError: it is no such signature, is of another content or namespace, or of a key that is not trusted.
        MissingDependencyError: the `cryptography` package is not installed.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise MissingDependencyError(
            "Checking a signature needs the package cryptography, which is not installed: pip install"
            " 'psamf-edge[sign]'."
        ) from error
    try:
        key, signed, value = _parse(content, signature)
        if key not in keys:
            raise IntegrityError(
                f"The signature is of the key {_fingerprint(key)}, and trusted are {', '.join(map(_fingerprint, keys))}"
                ": give the key file of whom you had the bundle from, or do not use it."
            )
        Ed25519PublicKey.from_public_bytes(_key_bytes(key)).verify(value, signed)
    except (ValueError, InvalidSignature) as error:
        reason = str(error) or "the content is not what was signed"
        raise IntegrityError(
            f"The signature does not hold ({reason}): fetch the bundle again, or do not use it."
        ) from error


def _parse(content: bytes, signature: bytes) -> tuple[bytes, bytes, bytes]:
    """The key that signed, the bytes that it signed, and the 64 bytes of its signature. Raises ValueError."""
    lines = signature.decode("ascii").split()
    text = " ".join(lines)
    if not (text.startswith(_ARMOUR[0]) and text.endswith(_ARMOUR[1])):
        raise ValueError("it is not what `ssh-keygen -Y sign` writes")
    blob = base64.b64decode(text[len(_ARMOUR[0]) : -len(_ARMOUR[1])].replace(" ", ""), validate=True)
    head = _MAGIC + _VERSION
    if not blob.startswith(head):
        raise ValueError("it is no SSH signature of version 1")
    key, namespace, reserved, hash_name, wrapped = _strings(blob[len(head) :], 5)
    if namespace != NAMESPACE:
        raise ValueError(f"it was made for another purpose than {NAMESPACE.decode()}")
    if hash_name not in _HASHES:
        raise ValueError("its hash is neither sha256 nor sha512")
    algorithm, value = _strings(wrapped, 2)
    if algorithm != _ALGORITHM:
        raise ValueError("it is not an Ed25519 signature")
    digest = _HASHES[hash_name](content).digest()
    return key, _MAGIC + b"".join(map(_string, (namespace, reserved, hash_name, digest))), value


def _public_key(path: Path | str, line: str) -> bytes:
    words = line.split()
    try:
        if words[0] != _ALGORITHM.decode():
            raise ValueError
        key = base64.b64decode(words[1], validate=True)
        _key_bytes(key)
    except (ValueError, IndexError) as error:
        raise UsageError(
            f"The key file {path} has a line that is no Ed25519 public key; give the .pub file that `ssh-keygen -t"
            " ed25519` makes."
        ) from error
    return key


def _key_bytes(key: bytes) -> bytes:
    """The 32 bytes of an Ed25519 key from OpenSSH's form. Raises ValueError."""
    algorithm, value = _strings(key, 2)
    if algorithm != _ALGORITHM or len(value) != 32:
        raise ValueError("its key is not an Ed25519 key")
    return value


def _fingerprint(key: bytes) -> str:
    """As `ssh-keygen -l` prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def _string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def _strings(blob: bytes, count: int) -> list[bytes]:
    """Exactly `count` strings, each behind its length in four bytes. Raises ValueError."""
    found = []
    for _ in range(count):
        size = int.from_bytes(blob[:4], "big")
        if len(blob) < 4 + size:
            raise ValueError("it is cut short")
        found.append(blob[4 : 4 + size])
        blob = blob[4 + size :]
    if blob:
        raise ValueError("bytes are left over")
    return found
