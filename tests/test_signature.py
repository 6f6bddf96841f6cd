"""Signatures by the real `ssh-keygen`: what was signed opens, and nothing else does."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import psamf_edge
from psamf_edge.bundle import MANIFEST, SIGNATURE, open_bundle
from psamf_edge.cli import main
from psamf_edge.errors import IntegrityError, MissingDependencyError, UsageError
from psamf_edge.signature import MAX_KEYS_BYTES, NAMESPACE, read_keys, verify
from tests.attacks.bundles import rewrite, write_small

pytest.importorskip("cryptography", reason="cryptography is not installed: pip install 'psamf-edge[sign]'")
TOOL = shutil.which("ssh-keygen")
pytestmark = pytest.mark.skipif(TOOL is None, reason="ssh-keygen is not installed: signatures of it are the oracle")


def make_key(path: Path, kind: str = "ed25519") -> Path:
    """A key pair without a passphrase; the path of its private half."""
    subprocess.run([TOOL, "-q", "-t", kind, "-N", "", "-C", "a comment", "-f", str(path)], check=True)
    return path


def sign(file: Path, key: Path, namespace: str = NAMESPACE.decode(), *options: str) -> Path:
    """What the documentation tells a publisher to run; the path of the signature."""
    made = file.with_name(f"{file.name}.sig")
    made.unlink(missing_ok=True)
    subprocess.run(
        [TOOL, "-q", "-Y", "sign", "-f", str(key), "-n", namespace, *options, str(file)],
        check=True,
        capture_output=True,
    )
    return made


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: make_key(folder / name) for name in ("ours", "theirs")}


@pytest.fixture
def bundle(tmp_path, keys) -> Path:
    """A small bundle that we signed."""
    path = write_small(tmp_path / "small.psamf")
    sign(path / MANIFEST, keys["ours"])
    return path


def public(key: Path) -> Path:
    return key.with_suffix(".pub")


def test_what_we_signed_opens(bundle, keys, tmp_path):
    assert open_bundle(bundle, require_signature=public(keys["ours"])).name == "small"
    ring = tmp_path / "ring.pub"
    ring.write_text(f"# whom we trust\n\n{public(keys['theirs']).read_text()}{public(keys['ours']).read_text()}")
    assert open_bundle(bundle, require_signature=str(ring)).name == "small"
    open_bundle(bundle)  # a signature that nobody asks for is no more than a file that the manifest does not list


@pytest.mark.parametrize("hash_name", ["sha256", "sha512"])
def test_both_hashes_of_the_format(bundle, keys, hash_name):
    sign(bundle / MANIFEST, keys["ours"], NAMESPACE.decode(), "-O", f"hashalg={hash_name}")
    open_bundle(bundle, require_signature=public(keys["ours"]))


def test_a_signature_of_somebody_else(bundle, keys):
    with pytest.raises(
        IntegrityError, match=r"The signature is of the key SHA256:\S+, and trusted are SHA256:"
    ) as caught:
        open_bundle(bundle, require_signature=public(keys["theirs"]))
    printed = subprocess.run([TOOL, "-l", "-f", str(public(keys["ours"]))], capture_output=True, text=True).stdout
    assert printed.split()[1] in str(caught.value)


def test_no_signature(bundle, keys):
    (bundle / SIGNATURE).unlink()
    with pytest.raises(IntegrityError, match="is not signed: it has no manifest"):
        open_bundle(bundle, require_signature=public(keys["ours"]))


def test_a_signature_for_another_purpose(bundle, keys):
    sign(bundle / MANIFEST, keys["ours"], "git")
    with pytest.raises(IntegrityError, match="another purpose"):
        open_bundle(bundle, require_signature=public(keys["ours"]))


def test_every_changed_byte_of_the_manifest_is_found(bundle, keys):
    content = (bundle / MANIFEST).read_bytes()
    trusted = read_keys(public(keys["ours"]))
    signature = (bundle / SIGNATURE).read_bytes()
    verify(content, signature, trusted)
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        with pytest.raises(IntegrityError, match="not what was signed"):
            verify(bytes(changed), signature, trusted)


def test_a_changed_signature_never_counts_for_more(bundle, keys):
    content, signature = (bundle / MANIFEST).read_bytes(), (bundle / SIGNATURE).read_bytes()
    trusted, rng = read_keys(public(keys["ours"])), random.Random(0)
    for _ in range(500):
        changed = bytearray(signature)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        with pytest.raises(IntegrityError):
            verify(bytes(changed) + b"x", content, trusted)
        with pytest.raises(IntegrityError):
            verify(content + b" ", bytes(changed), trusted)
    for size in range(len(signature) - 1):
        with pytest.raises(IntegrityError):
            verify(content, signature[:size], trusted)


def test_the_signature_covers_every_file(bundle, keys):
    (bundle / "vocab.txt").write_bytes((bundle / "vocab.txt").read_bytes().replace(b"a", b"b"))
    opened = open_bundle(bundle, require_signature=public(keys["ours"]))
    with pytest.raises(IntegrityError, match="SHA-256"):
        opened.read("vocab.txt")
    rewrite(bundle, lambda manifest: manifest["files"].pop("vocab.txt"))
    with pytest.raises(IntegrityError, match="not what was signed"):
        open_bundle(bundle, require_signature=public(keys["ours"]))


def test_a_linked_signature_is_not_followed(bundle, keys, tmp_path):
    shutil.move(bundle / SIGNATURE, tmp_path)
    (bundle / SIGNATURE).symlink_to(tmp_path / SIGNATURE)
    with pytest.raises(IntegrityError, match="plain file"):
        open_bundle(bundle, require_signature=public(keys["ours"]))


def test_other_kinds_of_keys(bundle, keys, tmp_path):
    other = make_key(tmp_path / "other", "ecdsa")
    with pytest.raises(UsageError, match="no Ed25519 public key"):
        read_keys(public(other))
    sign(bundle / MANIFEST, other)
    with pytest.raises(IntegrityError, match="not an Ed25519 signature"):
        open_bundle(bundle, require_signature=public(keys["ours"]))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# nobody\n",
        b"ssh-ed25519\n",
        b"ssh-ed25519 AAAA\n",
        b"ssh-ed25519 !!!! x\n",
        b"\xff\xfe\0",
        b"#\n" * MAX_KEYS_BYTES,
    ],
    ids=["empty", "none", "no-key", "short", "no-base64", "binary", "huge"],
)
def test_files_that_hold_no_key(tmp_path, content):
    (tmp_path / "key.pub").write_bytes(content)
    with pytest.raises(UsageError, match=r"key\.pub"):
        read_keys(tmp_path / "key.pub")


def test_a_private_key_or_no_file(tmp_path, keys):
    for path in (keys["ours"], tmp_path / "absent.pub", tmp_path):
        with pytest.raises(UsageError, match="The key file"):
            read_keys(path)


def test_without_the_package(bundle, keys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(MissingDependencyError, match=r"psamf-edge\[sign\]"):
        open_bundle(bundle, require_signature=public(keys["ours"]))


def test_the_library_and_the_command_line_ask_for_it(keys, tmp_path):
    key = public(keys["ours"])
    with pytest.raises(IntegrityError, match="is not signed"):
        psamf_edge.load(require_signature=key)
    (tmp_path / "rows.csv").write_text("id,text,label\na,good,1\n")
    for command in (["infer", "--text", "good"], ["evaluate", str(tmp_path / "rows.csv")]):
        result = CliRunner().invoke(main, [*command, "--require-signature", str(key)])
        assert (result.exit_code, result.stdout) == (4, "")
        assert "is not signed" in result.stderr
