"""The bundle format: what is written is what is read, and every way to break one ends in the right error."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from psamf_edge.bundle import (
    MAX_FILE_BYTES,
    MAX_MANIFEST_BYTES,
    SCHEMA,
    Bundle,
    EngineOrigin,
    PlanKernel,
    PlanSegment,
    Shapes,
    open_bundle,
)
from psamf_edge.errors import IntegrityError, UsageError

SHAPES = Shapes(32, 16, 200, 63, 20, 8, 1, 10, 10, 128, 3000, 300)
FILES = {"vocab.txt": b"a\nb\n", "all.onnx": b"\x08\x09model" * 100, "empty": b"", "MODEL_CARD.md": b"# Card\n"}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle of four small files; its ONNX file is junk, which the format does not care about."""
    pytest.importorskip("onnx")
    from psamf_edge.compile.export.pack import BundleContent, write_bundle

    plan = (PlanSegment("all", "all.onnx", ("ids", "text_mask", "present"), ("score", "log_scale")),)
    content = BundleContent(
        "small", "cpu", "fp32", plan, SHAPES, "Apache-2.0", provenance={"a": [1]}, metrics={"mae": 1}
    )
    return write_bundle(tmp_path / "small.psamf", content, FILES)


def rewrite(bundle: Bundle, change) -> None:
    """Apply `change` to the manifest's JSON object, in place."""
    path = bundle.path / "manifest.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def test_reads_what_was_written(bundle: Bundle) -> None:
    assert {name: bundle.read(name) for name in bundle.files} == FILES
    assert (bundle.name, bundle.target, bundle.precision, bundle.licence) == ("small", "cpu", "fp32", "Apache-2.0")
    assert bundle.shapes == SHAPES
    assert bundle.plan[0].outputs == ("score", "log_scale")
    assert (dict(bundle.provenance), dict(bundle.metrics), bundle.engines) == ({"a": [1]}, {"mae": 1}, None)
    # the oracle is sha256sum's definition, over the file as it lies there
    assert bundle.manifest_sha256 == hashlib.sha256((bundle.path / "manifest.json").read_bytes()).hexdigest()
    bundle.verify()


def test_bundle_is_frozen(bundle: Bundle) -> None:
    with pytest.raises(AttributeError):
        bundle.name = "other"
    with pytest.raises(TypeError):
        bundle.files["x"] = None


@pytest.mark.parametrize("name", [name for name, content in FILES.items() if content])
@pytest.mark.parametrize("where", ["first", "last"])
def test_a_flipped_byte_is_found(bundle: Bundle, name: str, where: str) -> None:
    content = bytearray((bundle.path / name).read_bytes())
    content[0 if where == "first" else -1] ^= 1
    (bundle.path / name).write_bytes(content)
    opened = open_bundle(bundle.path)  # sizes are right
    for read in (lambda: opened.read(name), opened.verify):
        with pytest.raises(IntegrityError, match=f"{name}.*SHA-256") as caught:
            read()
        assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", FILES)
def test_truncated_grown_and_missing_files(bundle: Bundle, name: str) -> None:
    for content in (FILES[name][:-1], FILES[name] + b"x"):
        if content != FILES[name]:
            (bundle.path / name).write_bytes(content)
            with pytest.raises(IntegrityError, match=r"bytes where the manifest says"):
                open_bundle(bundle.path)
            with pytest.raises(IntegrityError):  # damaged after it was opened
                bundle.read(name)
    (bundle.path / name).unlink()
    with pytest.raises(IntegrityError, match="cannot be read"):
        open_bundle(bundle.path)


def test_links_pipes_and_directories_are_refused(bundle: Bundle) -> None:
    target = bundle.path / "vocab.txt"
    outside = bundle.path.parent / "outside.txt"
    outside.write_bytes(FILES["vocab.txt"])
    makers = [lambda: target.symlink_to(outside), target.mkdir]
    if hasattr(os, "mkfifo"):
        makers.append(lambda: os.mkfifo(target))
    for make in makers:
        target.rmdir() if target.is_dir() and not target.is_symlink() else target.unlink()
        make()
        with pytest.raises(IntegrityError, match="not a plain file"):
            open_bundle(bundle.path)
        with pytest.raises(IntegrityError, match="plain file"):  # swapped after it was opened; a pipe must not hang
            bundle.read("vocab.txt")


def test_a_linked_manifest_is_refused(bundle: Bundle) -> None:
    shutil.move(bundle.path / "manifest.json", bundle.path.parent)
    (bundle.path / "manifest.json").symlink_to(bundle.path.parent / "manifest.json")
    with pytest.raises(IntegrityError, match="plain file"):
        open_bundle(bundle.path)


def test_files_that_are_not_listed_are_never_read(bundle: Bundle) -> None:
    (bundle.path / "extra.bin").write_bytes(b"x")
    opened = open_bundle(bundle.path)
    opened.verify()
    for name in ("extra.bin", "../small.psamf/vocab.txt", "manifest.json", ""):
        with pytest.raises(IntegrityError, match="lists no file"):
            opened.read(name)


@pytest.mark.parametrize(
    "name",
    ["../evil", "..", ".", "a/b", "a\\b", "/etc/passwd", "C:x", ".hidden", "", "a\0b", "é", "x" * 81, "manifest.json"],
)
def test_names_that_could_leave_the_bundle(bundle: Bundle, name: str) -> None:
    rewrite(bundle, lambda raw: raw["files"].update({name: {"sha256": "0" * 64, "size": 0}}))
    with pytest.raises(IntegrityError, match="not a plain name"):
        open_bundle(bundle.path)


@pytest.mark.parametrize("name", ["x/../../precious", "..", "/etc", ".hidden", "a\\b", "C:x", "", "é", "x" * 81])
@pytest.mark.parametrize("step", [0, 1])
def test_names_of_steps_are_plain(kernel_bundle: Bundle, step: int, name: str) -> None:
    rewrite(kernel_bundle, lambda raw: raw["plan"][step].update(name=name))
    with pytest.raises(IntegrityError, match=rf"gives 'plan\[{step}\]' the name .*not a plain name"):
        open_bundle(kernel_bundle.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(schema="psamf-edge-bundle/2"), "schema 'psamf-edge-bundle/2'"),
        (lambda raw: raw.pop("schema"), "schema"),
        (lambda raw: raw.update(target="tpu"), "cpu, rtx, tensorrt"),
        (lambda raw: raw.update(files=[]), "'files'"),
        (lambda raw: raw["files"]["empty"].update(size=MAX_FILE_BYTES + 1), "at most"),
        (lambda raw: raw["files"]["empty"].update(size=10**400), "at most"),
        (lambda raw: raw["files"]["empty"].update(size=-1), "at most"),
        (lambda raw: raw["files"]["empty"].update(size=True), "size"),
        (lambda raw: raw["files"]["empty"].update(size=0.0), "size"),
        (lambda raw: raw["files"]["empty"].update(sha256="F" * 64), "SHA-256"),
        (lambda raw: raw["files"].update({f"f{i}": raw["files"]["empty"] for i in range(64)}), "at most 64"),
        (lambda raw: raw["shapes"].update(hidden=0), "shapes.hidden"),
        (lambda raw: raw["shapes"].update(hidden=2**40), "shapes.hidden"),
        (lambda raw: raw["shapes"].pop("width"), "shapes.width"),
        (lambda raw: raw.update(plan=[]), "empty 'plan'"),
        (lambda raw: raw.update(plan=raw["plan"] * 33), "at most 32"),
        (lambda raw: raw.update(plan=raw["plan"] * 2), "two steps of one name"),
        (lambda raw: raw.update(plan=[7]), r"plan\[0\]"),
        (lambda raw: raw["plan"][0].update(file="other.onnx"), "other.onnx"),
        (lambda raw: raw["plan"][0].update(when="smell"), "text, audio, face"),
        (lambda raw: raw["plan"][0].update(inputs=[1]), "inputs"),
        (lambda raw: raw["plan"][0].update(engine="empty"), "engine"),
        (lambda raw: raw.update(engines={"flavour": "tensorrt_rtx", "version": "1", "devices": "all"}), "engine"),
        (lambda raw: raw.update(engines={"flavour": 1}), "engines.flavour"),
    ],
)
def test_wrong_manifests(bundle: Bundle, change, message: str) -> None:
    rewrite(bundle, change)
    with pytest.raises(IntegrityError, match=message) as caught:
        open_bundle(bundle.path)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"schema": "x", "schema": "y"}',
        b'{"size": NaN}',
        b" " * (MAX_MANIFEST_BYTES + 1),
    ],
    ids=["empty", "cut", "list", "null", "not-utf8", "deep-list", "deep-object", "twice", "nan", "huge"],
)
def test_junk_in_place_of_the_manifest(bundle: Bundle, content: bytes) -> None:
    (bundle.path / "manifest.json").write_bytes(content)
    with pytest.raises(IntegrityError):
        open_bundle(bundle.path)


KERNEL = PlanKernel(
    "attention", "cross_modal_attention", ("query", "audio", "face", "lengths"), ("contexts",), "w.npy", "k.ptx"
)


@pytest.fixture
def kernel_bundle(bundle: Bundle, tmp_path: Path) -> Bundle:
    """The same with an engine and a kernel after it."""
    from psamf_edge.compile.export.pack import BundleContent, write_bundle

    plan = (PlanSegment("all", "all.onnx", ("ids",), ("score",), engine="all.engine"), KERNEL)
    origin = EngineOrigin("tensorrt_rtx", "1.7", "all")
    content = BundleContent("kernel", "rtx", "fp16", plan, SHAPES, "x", origin)
    files = {**FILES, "all.engine": b"engine", "w.npy": b"weights", "k.ptx": b".version 8.5"}
    return write_bundle(tmp_path / "kernel.psamf", content, files)


def test_a_kernel_is_read_as_it_was_written(kernel_bundle: Bundle) -> None:
    assert kernel_bundle.plan[1] == KERNEL
    assert isinstance(kernel_bundle.plan[0], PlanSegment)
    rewrite(kernel_bundle, lambda raw: raw["plan"][1].pop("code"))
    assert open_bundle(kernel_bundle.path).plan[1].code is None


@pytest.mark.parametrize("name", ["w.npy", "k.ptx"])
def test_a_flipped_byte_of_a_kernel_is_found(kernel_bundle: Bundle, name: str) -> None:
    content = bytearray((kernel_bundle.path / name).read_bytes())
    content[0] ^= 1
    (kernel_bundle.path / name).write_bytes(content)
    with pytest.raises(IntegrityError, match=f"{name}.*SHA-256"):
        kernel_bundle.read(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda kernel: kernel.update(kernel="lstm"), r"plan\[1\]\.kernel.*allowed are cross_modal_attention"),
        (lambda kernel: kernel.update(kernel=3), r"plan\[1\]\.kernel"),
        (lambda kernel: kernel.update(kernel=None), r"plan\[1\]\.kernel"),
        (lambda kernel: kernel.update(inputs=["query"]), r"plan\[1\] another number of tensors than the 4 and 1"),
        (lambda kernel: kernel.update(outputs=[]), "another number of tensors"),
        (lambda kernel: kernel.update(outputs="contexts"), "outputs"),
        (lambda kernel: kernel.update(weights=None), "weights"),
        (lambda kernel: kernel.update(weights="../w.npy"), r"names '../w.npy' in 'plan\[1\]'"),
        (lambda kernel: kernel.update(code="absent.ptx"), "absent.ptx"),
        (lambda kernel: kernel.update(code=0), "code"),
        (lambda kernel: kernel.pop("name"), "name"),
    ],
)
def test_wrong_kernels(kernel_bundle: Bundle, change, message: str) -> None:
    rewrite(kernel_bundle, lambda raw: change(raw["plan"][1]))
    with pytest.raises(IntegrityError, match=message):
        open_bundle(kernel_bundle.path)


def test_a_kernel_runs_on_a_gpu_with_engines_in_the_bundle_or_without(kernel_bundle: Bundle) -> None:
    def drop_engines(raw: dict) -> None:
        raw.update(engines=None)
        raw["plan"][0].update(engine=None)

    rewrite(kernel_bundle, drop_engines)
    opened = open_bundle(kernel_bundle.path)
    assert (opened.engines, opened.plan[0].engine, opened.needs_gpu) == (None, None, True)
    rewrite(kernel_bundle, lambda raw: raw.update(target="cpu"))
    with pytest.raises(IntegrityError, match=r"has a kernel in plan\[1\] for the cpu"):
        open_bundle(kernel_bundle.path)


@pytest.mark.parametrize("plugin", ["ahead_of_time", "python"])
def test_a_plugin_is_for_tensorrt_alone(kernel_bundle: Bundle, plugin: str) -> None:
    rewrite(kernel_bundle, lambda raw: raw["plan"][0].update(plugin=plugin))
    with pytest.raises(
        IntegrityError, match=r"plan\[0\]\.plugin'; allowed are null and, for tensorrt, ahead_of_time, py"
    ):
        open_bundle(kernel_bundle.path)
    rewrite(kernel_bundle, lambda raw: raw.update(target="tensorrt", plan=raw["plan"][:1]))
    opened = open_bundle(kernel_bundle.path)
    assert (opened.plan[0].plugin, opened.needs_gpu) == (plugin, True)
    for wrong in ("lua", 3):
        rewrite(kernel_bundle, lambda raw, wrong=wrong: raw["plan"][0].update(plugin=wrong))
        with pytest.raises(IntegrityError, match=r"plan\[0\]\.plugin"):
            open_bundle(kernel_bundle.path)


@pytest.mark.parametrize("key", ["capability", "options"])
def test_what_engines_may_say_of_themselves(kernel_bundle: Bundle, key: str) -> None:
    rewrite(kernel_bundle, lambda raw: raw["engines"].pop(key))  # as an earlier version wrote it
    assert getattr(open_bundle(kernel_bundle.path).engines, key) is None
    rewrite(kernel_bundle, lambda raw: raw["engines"].update({key: 8.7}))
    with pytest.raises(IntegrityError, match=f"engines.{key}"):
        open_bundle(kernel_bundle.path)


def test_unknown_keys_are_ignored(bundle: Bundle) -> None:
    rewrite(bundle, lambda raw: raw.update(colour="blue"))
    assert open_bundle(bundle.path).name == "small"


def test_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "file.psamf").write_text("x")
    (tmp_path / "empty.psamf").mkdir()
    for name in ("absent.psamf", "file.psamf", "empty.psamf"):
        with pytest.raises(UsageError, match="is not a bundle"):
            open_bundle(tmp_path / name)


def test_writing_replaces_bundles_only_and_only_if_asked(bundle: Bundle, tmp_path: Path) -> None:
    from psamf_edge.compile.export.pack import BundleContent, write_bundle

    content = BundleContent("second", "cpu", "fp32", bundle.plan, SHAPES, "x")
    with pytest.raises(UsageError, match="--force"):
        write_bundle(bundle.path, content, FILES)
    assert open_bundle(bundle.path).name == "small"
    assert write_bundle(bundle.path, content, FILES, force=True).name == "second"
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="not a bundle"):
        write_bundle(tmp_path / "precious", content, FILES, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "small.psamf"]  # no scratch left behind


def test_a_failed_write_leaves_the_old_bundle(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from psamf_edge.compile.export import pack

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pack, "write_synced", full)
    with pytest.raises(OSError, match="No space"):
        pack.write_bundle(
            bundle.path, pack.BundleContent("x", "cpu", "fp32", bundle.plan, SHAPES, "x"), FILES, force=True
        )
    open_bundle(bundle.path).verify()
    assert [path.name for path in bundle.path.parent.iterdir()] == ["small.psamf"]


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system on which two folders cannot change their names in one step."""
    from psamf_edge.compile.export import pack

    def missing(*args, **options) -> None:
        raise OSError

    monkeypatch.setattr(pack.ctypes, "CDLL", missing)


def replace_and_stop(bundle: Bundle, number: int, when: str, stop, beside: Path | None = None) -> None:
    """Write another bundle in the place of one; `stop` is called before or after the rename of this number."""
    from psamf_edge.compile.export import pack

    rename, calls = os.rename, []

    def deadly(source, target) -> None:
        calls.append(source)
        if (len(calls), when) == (number, "before"):
            stop()
        rename(source, target)
        if (len(calls), when) == (number, "after"):
            stop()

    content = pack.BundleContent("second", "cpu", "fp32", bundle.plan, SHAPES, "x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", deadly)
        pack.write_bundle(bundle.path, content, FILES, force=True, beside=beside)


@pytest.mark.parametrize(
    ("number", "when", "name"),
    [(1, "before", "small"), (1, "after", "small"), (2, "before", "small"), (2, "after", "second"), (9, "", "second")],
)
def test_interrupted_while_it_replaces_a_bundle_there_is_one(
    bundle: Bundle, no_exchange: None, number: int, when: str, name: str
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        replace_and_stop(bundle, number, when, stop)
    assert open_bundle(bundle.path).name == name
    open_bundle(bundle.path).verify()


@pytest.mark.parametrize(("number", "name"), [(2, "small"), (3, "second")])
def test_killed_while_it_replaces_a_bundle_the_next_run_has_one(
    bundle: Bundle, no_exchange: None, number: int, name: str
) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("kills a child that it forks")
    from psamf_edge.compile.work import Work

    child = os.fork()
    if child == 0:
        try:
            work = Work(bundle.path)
            replace_and_stop(bundle, number, "before", lambda: os.kill(os.getpid(), signal.SIGKILL), work.folder)
        finally:
            os._exit(1)  # whatever happens, it must not go on with the tests
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert bundle.path.exists() == (name == "second")
    Work(bundle.path).close(done=True)
    assert open_bundle(bundle.path).name == name
    open_bundle(bundle.path).verify()
    assert [path.name for path in bundle.path.parent.iterdir()] == ["small.psamf"]


def test_the_writer_refuses_names_that_the_reader_would(bundle: Bundle) -> None:
    from psamf_edge.compile.export.pack import BundleContent, write_bundle

    content = BundleContent("x", "cpu", "fp32", bundle.plan, SHAPES, "x")
    with pytest.raises(UsageError, match="plain name"):
        write_bundle(bundle.path.parent / "new.psamf", content, {**FILES, "../evil": b""})
    assert SCHEMA in (bundle.path / "manifest.json").read_text()
