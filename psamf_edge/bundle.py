"""The bundle: a directory `name.psamf/` that holds a compiled model, and the manifest that says what is in it.

A bundle comes from elsewhere, so it is read with suspicion. The manifest has a size cap and a known schema; every file
it lists is a plain file beside it, with a declared size and SHA-256. `Bundle.read` opens a file once, reads it once,
hashes those bytes and returns those bytes: what was checked is what gets parsed. Files that the manifest does not list
are never opened, and keys that this version does not know are ignored, so that a later writer may add some.

The hashes guard against damage and against files swapped under a manifest that is trusted. They do not say who made the
bundle: ask for a signature (see psamf_edge.signature), or compare `Bundle.manifest_sha256` with a value from a source
you trust. The path of the bundle may be a link, since it is you who names it; nothing inside may be.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from psamf_edge.errors import IntegrityError, UsageError
from psamf_edge.result import MODALITIES

SCHEMA = "psamf-edge-bundle/1"
MANIFEST = "manifest.json"
SIGNATURE = MANIFEST + ".sig"  # where ssh-keygen puts the signature of the manifest
TARGETS = ("cpu", "rtx", "tensorrt")
KERNELS = {"cross_modal_attention": (4, 1)}  # what a plan may launch: name to the number of its inputs and outputs
PLUGINS = ("ahead_of_time", "python")  # how an engine may hold our kernel: see psamf_edge.kernels.plugin
Named = tuple[str | None, ...]  # the files that a step of the plan names
DEFAULT_BUNDLE = Path(__file__).parent / "data" / "default.psamf"

MAX_MANIFEST_BYTES = 1 << 20  # ours are about 20 KB
MAX_FILE_BYTES = 1 << 30  # BERT-base in float32, the largest trunk foreseen, is 0.44 GB
MAX_BUNDLE_BYTES = 1 << 32  # of all files together: that trunk as ONNX and as engine is 0.9 GB
MAX_FILES = 64  # ours have about ten
MAX_STEPS = 32  # ours have at most six; each loads its file anew
MAX_SIZE = 1 << 20  # of any declared dimension: far above a real one, and products of two still fit an int64


@dataclass(frozen=True)
class FileEntry:
    """What the manifest says of one file."""

    sha256: str  # 64 lower-case hexadecimal digits
    size: int  # bytes


@dataclass(frozen=True)
class PlanSegment:
    """One segment of the plan. Tensors are passed from one segment to a later one by name.

    when: the modality whose presence the segment needs, or None if it always runs.
    file: the ONNX file.
    engine: the engine built from that file, in bundles for a GPU that carry engines.
    plugin: the file has our kernel as a node that only a TensorRT plugin can run; one of PLUGINS, as its engine has it.
    """

    name: str
    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    when: str | None = None
    engine: str | None = None
    plugin: str | None = None


@dataclass(frozen=True)
class PlanKernel:
    """One launch of our own kernel between two segments. It always runs; its tensors are named as a segment's are.

    kernel: one of KERNELS.
    inputs, outputs: in the order of the kernel's signature.
    weights: a .npy file with the kernel's weights, packed as the kernel reads them, float32 or float16.
    code: a file with the kernel as PTX, or None: then it is compiled where it runs.
    """

    name: str
    kernel: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: str
    code: str | None = None


@dataclass(frozen=True)
class Shapes:
    """The sizes that the feature code and the segments have to agree on."""

    hidden: int  # H, of the text trunk
    width: int  # d, of the voice and face streams
    vocabulary: int
    audio_features: int
    face_features: int
    audio_stride: int  # hops in one step of the voice stream
    face_stride: int  # frames in one step of the face stream
    audio_hop_ms: int
    face_rate: int  # frames in a second
    max_tokens: int  # the longest utterance that the segments take, by modality
    max_audio_hops: int
    max_face_frames: int


@dataclass(frozen=True)
class EngineOrigin:
    """What an engine was built with. It runs only there."""

    flavour: str  # "tensorrt_rtx" or "tensorrt"
    version: str
    devices: str  # the GPUs it was built for, in words
    capability: str | None = None  # their compute capability, as "8.7"; None where it does not matter
    options: str | None = None  # how it was built, where that is not the default
    model: str | None = None  # of the GPU, as `Driver.model`; None where it does not matter or nobody knew


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Every mapping is read-only."""

    path: Path
    manifest_sha256: str
    name: str
    target: str  # one of TARGETS
    precision: str  # "fp32", "fp16", "int8", "int8-weights" or "fp8"
    files: Mapping[str, FileEntry]
    plan: tuple[PlanSegment | PlanKernel, ...]
    shapes: Shapes
    engines: EngineOrigin | None
    provenance: Mapping[str, Any]
    metrics: Mapping[str, Any]
    licence: str

    def read(self, name: str) -> bytes:
        """The content of one file, verified.

        Raises:
            IntegrityError: the manifest does not list the file, or size or hash differ, or it is no plain file.
        """
        if name not in self.files:
            raise IntegrityError(f"The bundle {self.path} lists no file {name!r}; it has {', '.join(self.files)}.")
        entry = self.files[name]
        content = _read_plain(self.path / name, entry.size)
        if len(content) != entry.size:
            raise _damaged(self.path / name, f"has {len(content)} bytes where the manifest says {entry.size}")
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise _damaged(self.path / name, "does not have the SHA-256 that the manifest gives")
        return content

    @property
    def needs_gpu(self) -> bool:
        """Whether the plan holds our CUDA kernel, as a launch or as a plugin, which nothing but a GPU can run."""
        return any(isinstance(step, PlanKernel) or step.plugin is not None for step in self.plan)

    def verify(self) -> None:
        """Read and check every file, also those that scoring never opens. Raises IntegrityError."""
        for name in self.files:
            self.read(name)


def open_bundle(path: Path | str | None = None, require_signature: Path | str | None = None) -> Bundle:
    """Open a bundle: parse and check its manifest, and see that every file is there with its size.

    Contents are hashed as they are read (`Bundle.read`) or all at once (`Bundle.verify`).

    Args:
        path: the `.psamf` directory, or None for the bundle that ships with psamf-edge.
        require_signature: a file of public keys, one of which must have signed the manifest.

    Raises:
        UsageError: there is no bundle at `path`, or no key in the key file.
        IntegrityError: there is one, and it is damaged, made by another version, or not signed by one of the keys.
        MissingDependencyError: a signature is required, and `cryptography` is not installed.
    """
    root = DEFAULT_BUNDLE if path is None else Path(path)
    if not root.is_dir() or not os.path.lexists(root / MANIFEST):
        raise UsageError(
            f"{root} is not a bundle: a bundle is a directory that holds {MANIFEST}, made by `psamf-edge compile`."
        )
    content = _read_plain(root / MANIFEST, MAX_MANIFEST_BYTES)
    if len(content) > MAX_MANIFEST_BYTES:
        raise _damaged(root / MANIFEST, f"is larger than {MAX_MANIFEST_BYTES} bytes")
    if require_signature is not None:
        _check_signature(root, content, require_signature)
    bundle = _parse(_Reader(root / MANIFEST, _load_json(root / MANIFEST, content)), hashlib.sha256(content).hexdigest())
    for name, entry in bundle.files.items():
        _check_plain(root / name, entry.size)
    return bundle


def _check_signature(root: Path, manifest: bytes, keys: Path | str) -> None:
    from psamf_edge.signature import MAX_SIGNATURE_BYTES, read_keys, verify

    trusted = read_keys(keys)
    if not os.path.lexists(root / SIGNATURE):
        raise IntegrityError(
            f"The bundle {root} is not signed: it has no {SIGNATURE}. Use one that is, or leave out the signature that"
            " you require."
        )
    verify(manifest, _read_plain(root / SIGNATURE, MAX_SIGNATURE_BYTES), trusted)


def _damaged(path: Path, what: str) -> IntegrityError:
    return IntegrityError(f"{path} {what}: fetch the bundle again, or make it with `psamf-edge compile`.")


def _check_plain(path: Path, size: int) -> None:
    try:
        found = os.lstat(path)
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(found.st_mode):
        raise _damaged(path, "is not a plain file (links are not followed)")
    if found.st_size != size:
        raise _damaged(path, f"has {found.st_size} bytes where the manifest says {size}")


def _read_plain(path: Path, limit: int) -> bytes:
    """At most limit + 1 bytes of a plain file, opened once; the one byte more shows that there are more."""
    # O_NONBLOCK: a named pipe in place of the file must not hang the open. Both flags are absent on Windows.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _damaged(path, "is not a plain file")
            return file.read(limit + 1)
    except OSError as error:
        raise _damaged(path, f"cannot be read as a plain file ({error.strerror})") from error


def _load_json(path: Path, content: bytes) -> dict:
    def unique(pairs: list[tuple[str, Any]]) -> dict:
        if len(dict(pairs)) != len(pairs):  # two readers could each believe another one of the two
            raise ValueError("a key appears twice in one object")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        raw = json.loads(content.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"is not valid JSON ({error})") from error
    if not isinstance(raw, dict):
        raise _damaged(path, "does not hold a JSON object")
    return raw


class _Reader:
    """Typed access to one object of the manifest, with errors that name the key."""

    def __init__(self, path: Path, raw: dict, where: str = "") -> None:
        self.path, self.raw, self.where = path, raw, where

    def error(self, what: str) -> IntegrityError:
        return _damaged(self.path, what)

    def get(self, key: str, kind: type | tuple[type, ...]) -> Any:
        value = self.raw.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error(f"has no valid {self.where + key!r}")
        return value

    def inside(self, key: str) -> _Reader:
        return _Reader(self.path, self.get(key, dict), f"{self.where}{key}.")

    def names(self, key: str) -> tuple[str, ...]:
        value = self.get(key, list)
        if not all(isinstance(name, str) for name in value):
            raise self.error(f"has no valid {self.where + key!r}")
        return tuple(value)


def _parse(manifest: _Reader, sha256: str) -> Bundle:
    schema = manifest.get("schema", str)
    if schema != SCHEMA:
        raise manifest.error(f"has schema {schema[:40]!r}, and this version of psamf-edge reads {SCHEMA!r}")
    files = _parse_files(manifest)
    engines = None
    if manifest.raw.get("engines") is not None:
        origin = manifest.inside("engines")
        named = {field.name: str if field.default is MISSING else (str, type(None)) for field in fields(EngineOrigin)}
        engines = EngineOrigin(**{name: origin.get(name, kind) for name, kind in named.items()})
    target = manifest.get("target", str)
    if target not in TARGETS:
        raise manifest.error(f"has target {target[:40]!r}; allowed are {', '.join(TARGETS)}")
    return Bundle(
        path=manifest.path.parent,
        manifest_sha256=sha256,
        name=manifest.get("name", str),
        target=target,
        precision=manifest.get("precision", str),
        files=MappingProxyType(files),
        plan=_parse_plan(manifest, files, engines, target),
        shapes=_parse_shapes(manifest.inside("shapes")),
        engines=engines,
        provenance=MappingProxyType(manifest.get("provenance", dict)),
        metrics=MappingProxyType(manifest.get("metrics", dict)),
        licence=manifest.get("licence", str),
    )


def _parse_files(manifest: _Reader) -> dict[str, FileEntry]:
    listed = manifest.inside("files")
    if len(listed.raw) > MAX_FILES:
        raise manifest.error(f"lists {len(listed.raw)} files; at most {MAX_FILES} are allowed")
    files = {}
    for name in listed.raw:
        if not is_plain_name(name):
            raise manifest.error(f"lists the file name {name[:80]!r}, which is not a plain name")
        entry = listed.inside(name)
        size, sha256 = entry.get("size", int), entry.get("sha256", str)
        if not 0 <= size <= MAX_FILE_BYTES:
            raise manifest.error(f"gives {name} {size} bytes; at most {MAX_FILE_BYTES} are allowed")
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise manifest.error(f"gives {name} no valid SHA-256")
        files[name] = FileEntry(sha256, size)
    total = sum(entry.size for entry in files.values())
    if total > MAX_BUNDLE_BYTES:
        raise manifest.error(f"lists files of {total} bytes together; at most {MAX_BUNDLE_BYTES} are allowed")
    return files


def is_plain_name(name: str) -> bool:
    """Whether a name stays inside the bundle on every system: letters, digits, `.`, `_`, `-`, and no dot in front."""
    allowed = name.isascii() and all(c.isalnum() or c in "._-" for c in name)
    return allowed and 0 < len(name) <= 80 and name[0] != "." and name != MANIFEST


def _parse_plan(
    manifest: _Reader, files: dict[str, FileEntry], engines: EngineOrigin | None, target: str
) -> tuple[PlanSegment | PlanKernel, ...]:
    plan = []
    listed = manifest.get("plan", list)
    if len(listed) > MAX_STEPS:
        raise manifest.error(f"has a 'plan' of {len(listed)} steps; at most {MAX_STEPS} are allowed")
    for index, raw in enumerate(listed):
        if not isinstance(raw, dict):
            raise manifest.error(f"has no valid 'plan[{index}]'")
        entry = _Reader(manifest.path, raw, f"plan[{index}].")
        if "kernel" in raw:
            step, named = _parse_kernel(entry, target)
        else:
            step, named = _parse_segment(entry, engines, target)
        for name in named:
            if name is not None and name not in files:
                raise entry.error(f"names {name[:80]!r} in 'plan[{index}]' but does not list it in 'files'")
        if not is_plain_name(step.name):  # compiled again, a step has a folder of its name
            raise entry.error(f"gives 'plan[{index}]' the name {step.name[:80]!r}, which is not a plain name")
        plan.append(step)
    if not plan:
        raise manifest.error("has an empty 'plan'")
    if len({step.name for step in plan}) < len(plan):  # backends keep what they loaded by name
        raise manifest.error("has two steps of one name in 'plan'")
    return tuple(plan)


def _parse_segment(entry: _Reader, engines: EngineOrigin | None, target: str) -> tuple[PlanSegment, Named]:
    """One segment, and the files that it names."""
    optional = {key: entry.get(key, (str, type(None))) for key in ("when", "engine", "plugin")}
    segment = PlanSegment(
        entry.get("name", str), entry.get("file", str), entry.names("inputs"), entry.names("outputs"), **optional
    )
    where = entry.where.removesuffix(".")
    if segment.when not in (None, *MODALITIES):
        raise entry.error(f"has no valid '{where}.when'; allowed are null, {', '.join(MODALITIES)}")
    if (segment.engine is None) != (engines is None):
        raise entry.error(f"names an engine for some of 'plan' and 'engines' but not for all, as in {where}")
    if segment.plugin is not None and (segment.plugin not in PLUGINS or target != "tensorrt"):
        raise entry.error(f"has no valid '{where}.plugin'; allowed are null and, for tensorrt, {', '.join(PLUGINS)}")
    return segment, (segment.file, segment.engine)


def _parse_kernel(entry: _Reader, target: str) -> tuple[PlanKernel, Named]:
    """One kernel, and the files that it names."""
    where = entry.where.removesuffix(".")
    kernel = PlanKernel(
        name=entry.get("name", str),
        kernel=entry.get("kernel", str),
        inputs=entry.names("inputs"),
        outputs=entry.names("outputs"),
        weights=entry.get("weights", str),
        code=entry.get("code", (str, type(None))),
    )
    if kernel.kernel not in KERNELS:
        raise entry.error(f"has no valid '{where}.kernel'; allowed are {', '.join(KERNELS)}")
    if (len(kernel.inputs), len(kernel.outputs)) != KERNELS[kernel.kernel]:
        given, taken = KERNELS[kernel.kernel]
        raise entry.error(f"gives {where} another number of tensors than the {given} and {taken} of {kernel.kernel}")
    if target == "cpu":
        raise entry.error(f"has a kernel in {where} for the cpu: a kernel runs on a GPU, between engines")
    return kernel, (kernel.weights, kernel.code)


def _parse_shapes(shapes: _Reader) -> Shapes:
    sizes = {field.name: shapes.get(field.name, int) for field in fields(Shapes)}
    for name, size in sizes.items():
        if not 1 <= size <= MAX_SIZE:
            raise shapes.error(f"has shapes.{name} = {size}; allowed is 1 to {MAX_SIZE}")
    return Shapes(**sizes)
