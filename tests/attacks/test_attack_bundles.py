"""Attacks on the bundle: on its files, on the moment between checking and using them, and through what they say.

tests/test_bundle.py holds what the format refuses; tests/test_backend_tensorrt.py engines that are damaged, foreign or
of another version; tests/test_plain_pickle.py hostile pickles for the converter.
"""

from __future__ import annotations

import hashlib
import os
import random
import tracemalloc

import numpy as np
import pytest

from psamf_edge import bundle as bundle_module
from psamf_edge.backends import open_backend
from psamf_edge.backends.external_data import MAX_DEPTH, refuse_external_data
from psamf_edge.backends.sessions import open_session
from psamf_edge.bundle import DEFAULT_BUNDLE, MANIFEST, MAX_FILE_BYTES, open_bundle
from psamf_edge.errors import IntegrityError, MissingDependencyError, PsamfError
from psamf_edge.face.features import FacePath
from psamf_edge.plan import Features
from psamf_edge.scorer import Scorer
from tests.attacks.bundles import copy_default, reseal, rewrite, write_small

FILES = sorted(path.name for path in DEFAULT_BUNDLE.iterdir() if path.name != MANIFEST)


@pytest.fixture
def small(tmp_path):
    return write_small(tmp_path / "small.psamf", b"the model")


# Every file


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits_are_found_in_every_file(tmp_path, name):
    copy = copy_default(tmp_path)
    content, rng = bytearray((copy / name).read_bytes()), random.Random(name)
    opened = open_bundle(copy)
    for bit in (0, 8 * len(content) - 1, *(rng.randrange(8 * len(content)) for _ in range(3))):
        content[bit // 8] ^= 1 << bit % 8
        (copy / name).write_bytes(content)
        with pytest.raises(IntegrityError, match=f"{name}.*SHA-256"):
            opened.read(name)
        content[bit // 8] ^= 1 << bit % 8


def test_flipped_bits_in_the_manifest_are_found_or_change_no_file(small):
    """Nothing but a signature covers the manifest itself; what a flipped bit must not do is let other bytes in."""
    honest = open_bundle(small)
    content = (small / MANIFEST).read_bytes()
    opened_all_the_same = 0
    for bit in range(0, 8 * len(content), 23):  # 23 is prime to 8: every place of a byte comes
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        (small / MANIFEST).write_bytes(changed)
        try:
            opened = open_bundle(small)
            files = {name: opened.read(name) for name in opened.files}
        except IntegrityError:
            continue
        opened_all_the_same += 1
        assert opened.manifest_sha256 != honest.manifest_sha256  # every result says which manifest it is of
        assert all(content == honest.read(name) for name, content in files.items())
    assert opened_all_the_same > 0  # a letter of the name, for one


# Between the check and the use


def test_a_file_swapped_while_it_is_hashed(small, monkeypatch):
    """What was hashed is what is given out: the path is not opened a second time."""
    opened = open_bundle(small)

    def swapping(data: bytes):
        (small / "all.onnx").write_bytes(b"evil data")
        return hashlib.sha256(data)

    with monkeypatch.context() as patch:
        fake = type("hashlib", (), {"sha256": staticmethod(swapping)})
        patch.setattr(bundle_module, "hashlib", fake)
        assert opened.read("all.onnx") == b"the model"
    assert (small / "all.onnx").read_bytes() == b"evil data"
    with pytest.raises(IntegrityError, match="SHA-256"):
        opened.read("all.onnx")


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_a_file_swapped_between_the_look_and_the_opening(small, monkeypatch, what):
    opened = open_bundle(small)
    (small.parent / "all.onnx").write_bytes(b"the model")  # even the right content, but elsewhere
    honest_open, target = os.open, small / "all.onnx"

    def swapping(path, flags, *rest, **options):
        if path == target:
            target.unlink()
            if what == "link":
                target.symlink_to(small.parent / "all.onnx")
            elif what == "pipe":
                os.mkfifo(target)
            else:
                target.mkdir()
        return honest_open(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", swapping)
    with pytest.raises(IntegrityError, match="plain file"):
        opened.read("all.onnx")


def test_a_file_that_grew_without_end_is_not_read_to_the_end(small):
    opened = open_bundle(small)
    os.truncate(small / "all.onnx", 1 << 40)  # sparse: it takes no room on the disk
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match="bytes where the manifest says 9"):
            opened.read("all.onnx")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_manifest_that_grew_without_end(small):
    os.truncate(small / MANIFEST, 1 << 40)
    with pytest.raises(IntegrityError, match="is larger than"):
        open_bundle(small)


def test_a_bundle_swapped_whole_after_it_was_opened(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    link = tmp_path / "current.psamf"
    link.symlink_to(write_small(tmp_path / "one" / "a.psamf", b"the model"))
    opened = open_bundle(link)  # the path itself is the user's word, and may be a link
    link.unlink()
    link.symlink_to(write_small(tmp_path / "two" / "b.psamf", b"evil data"))
    with pytest.raises(IntegrityError, match="SHA-256"):
        opened.read("all.onnx")


def test_files_too_large_together(small):
    def claim(manifest: dict) -> None:
        for index in range(5):
            manifest["files"][f"f{index}"] = {"sha256": "0" * 64, "size": MAX_FILE_BYTES}

    rewrite(small, claim)
    with pytest.raises(IntegrityError, match="bytes together"):
        open_bundle(small)


# What the models say


def onnx_with(tensor, place: str) -> bytes:
    """A model of one addition that keeps `tensor` in one of the places where ONNX allows tensors."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy")
    add = helper.make_node("Add", ["x", "w"], ["y"])
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    graph = helper.make_graph([add], "g", [x], [y])
    functions = []
    if place == "initializer":
        graph.initializer.append(tensor)
    elif place == "attribute":
        graph.node.insert(0, constant)
    elif place == "attribute list":
        graph.node.insert(0, helper.make_node("Odd", [], ["w"], domain="odd", values=[tensor]))
    elif place == "subgraph":
        branch = helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("w", 1, [2])])
        condition = helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(np.array(True)))
        graph.node.insert(0, helper.make_node("If", ["c"], ["w"], then_branch=branch, else_branch=branch))
        graph.node.insert(0, condition)
    elif place == "sparse":
        sparse = onnx.SparseTensorProto(values=tensor, dims=[2])
        sparse.indices.CopyFrom(onnx.numpy_helper.from_array(np.array([0, 1])))
        graph.sparse_initializer.append(sparse)
    else:
        opset = [helper.make_opsetid("", 17)]
        functions.append(helper.make_function("odd", "F", [], ["w"], [constant], opset))
        graph.node.insert(0, helper.make_node("F", [], ["w"], domain="odd"))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("odd", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8).SerializeToString()


def outside(location: str = "near.bin", said: bool = True):
    """A tensor whose data lies elsewhere. said: whether it also admits it in data_location."""
    onnx = pytest.importorskip("onnx")
    tensor = onnx.TensorProto(name="stolen", data_type=onnx.TensorProto.FLOAT, dims=[2])
    if said:
        tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    return tensor


@pytest.mark.parametrize("place", ["initializer", "attribute", "attribute list", "subgraph", "sparse", "function"])
def test_data_outside_of_the_model_is_refused_wherever_it_is_named(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "near.bin").write_bytes(np.ones(2, np.float32).tobytes())  # where ONNX Runtime would look
    with pytest.raises(IntegrityError, match=r"evil\.onnx keeps the data of its tensor 'stolen' in another file"):
        open_session(onnx_with(outside(), place), "evil.onnx")
    honest = pytest.importorskip("onnx").numpy_helper.from_array(np.ones(2, np.float32), "w")
    refuse_external_data(onnx_with(honest, place), "honest.onnx")


@pytest.mark.parametrize("location", ["/etc/passwd", "../../x", "*/_ORT_MEM_ADDR_/*", "", "a" * 5000])
@pytest.mark.parametrize("said", [True, False])
def test_no_name_of_another_file_is_good(location, said):
    with pytest.raises(IntegrityError, match="in another file"):
        open_session(onnx_with(outside(location, said), "initializer"), "evil.onnx")


def test_a_bundle_whose_model_points_outside(tmp_path):
    evil = onnx_with(outside(), "initializer")
    with pytest.raises(IntegrityError, match="in another file"):
        open_backend(open_bundle(write_small(tmp_path / "evil.psamf", evil)), "cpu")


def nested(depth: int) -> bytes:
    """graph { node { attribute { graph { ... by hand: no library would write it."""
    inner = b""
    for level in range(depth):
        number = (6, 5, 1)[level % 3]  # attribute.g, node.attribute, graph.node
        size = len(inner)
        length = b""
        while size >= 0x80:
            length += bytes([size & 0x7F | 0x80])
            size >>= 7
        inner = bytes([number << 3 | 2]) + length + bytes([size]) + inner
    return inner


@pytest.mark.parametrize(
    "data",
    [
        bytes([7 << 3 | 2]) + b"\xff" * 9 + b"\x01",
        bytes([7 << 3 | 2]) + b"\x80" * 50,
        b"\x3b" * 1000,
        b"\x00\x00",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x00",
        b"\x3a\x05\x0a",
        b"\x09\0\0",
        np.random.default_rng(0).bytes(5000),
        b"\x18\0\0\0ORTM" + b"\0" * 100,
    ],
    ids=[
        "endless-length",
        "endless-number",
        "groups",
        "field-0",
        "huge-tag",
        "cut",
        "cut-double",
        "noise",
        "ort-format",
    ],
)
def test_what_is_no_onnx_file(data):
    with pytest.raises(IntegrityError):
        open_session(data, "junk.onnx")


def test_models_inside_models_without_end():
    refuse_external_data(bytes([7 << 3 | 2, len(nested(9))]) + nested(9), "nine.onnx")
    deep = nested(3 * MAX_DEPTH)
    size = len(deep)
    with pytest.raises(IntegrityError, match="inside one another"):
        refuse_external_data(bytes([7 << 3 | 2, size & 0x7F | 0x80, size >> 7]) + deep, "deep.onnx")


def test_no_model_that_ships_is_refused():
    for path in DEFAULT_BUNDLE.glob("*.onnx"):
        refuse_external_data(path.read_bytes(), path.name)


def poison(data: bytes, value: float) -> bytes:
    """The model with `value` as the first number of every floating-point tensor."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(data)
    spoilt = 0
    tensors = [*model.graph.initializer]
    tensors += [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    for tensor in tensors:
        numbers = onnx.numpy_helper.to_array(tensor)
        if numbers.dtype.kind == "f" and numbers.size:
            numbers = numbers.copy()
            numbers.reshape(-1)[0] = value
            tensor.CopyFrom(onnx.numpy_helper.from_array(numbers, tensor.name))
            spoilt += 1
    assert spoilt
    return model.SerializeToString()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("segment", ["text", "audio", "face", "fusion"])
def test_weights_that_are_no_numbers_end_in_a_sentence(tmp_path, segment, value):
    copy = copy_default(tmp_path)
    (copy / f"{segment}.onnx").write_bytes(poison((copy / f"{segment}.onnx").read_bytes(), value))
    reseal(copy)
    rng = np.random.default_rng(0)
    features = Features(
        np.array([101, 2204, 3185, 102]),
        rng.standard_normal((100, 63), np.float32),
        rng.standard_normal((10, 69), np.float32),
    )
    with open_backend(open_bundle(copy), "cpu") as backend:
        try:
            outputs = backend.run(features)
        except PsamfError:
            return
        assert value == np.inf  # a clamp may swallow an infinity: what comes out is a score all the same
        assert np.isfinite([outputs.score, outputs.confidence, *outputs.contributions.values()]).all()


@pytest.mark.parametrize("name", ["face_detector.onnx", "face_mesh.onnx", "expression.onnx"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_face_models_with_such_weights_find_no_face_or_end_in_a_sentence(tmp_path, name, value, sample_frames):
    copy = copy_default(tmp_path)
    (copy / name).write_bytes(poison((copy / name).read_bytes(), value))
    reseal(copy)
    path = FacePath.open(open_bundle(copy).read)
    try:
        for image, time_ms in sample_frames:
            path.observe(image, time_ms)
        found = path.features(0, 10_000)
    except PsamfError:
        return
    assert np.isfinite(found.values).all()


@pytest.fixture(scope="module")
def sample_frames():
    from psamf_edge.media.events import Frame
    from psamf_edge.media.reader import MediaReader

    with MediaReader() as reader:
        events = reader.read(DEFAULT_BUNDLE.parent / "sample.mp4", audio=False)
        frames = [
            (event.image, event.time_ms) for event, _ in zip(events, range(4), strict=False) if isinstance(event, Frame)
        ]
    assert frames
    return frames


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (np.full((1, 1), 1e9), r"a score of 1e\+09, outside"),
        (np.full((1, 1), -3.01), "outside"),
        (np.full((1, 1), np.nan), "not a finite number"),
        (np.zeros((1, 2)), r"of shape \(1, 2\) where \(1, 1\) is due"),
        (np.zeros(1), "of shape"),
        (np.zeros(()), "of shape"),
        (np.zeros((0, 1)), "of shape"),
    ],
    ids=["huge", "outside", "nan", "more", "flat", "scalar", "empty"],
)
def test_a_model_that_gives_no_score(tmp_path, score, message):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    constants = [
        helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(value.astype(np.float32)))
        for name, value in (("score", score), ("log_scale", np.zeros((1, 1))))
    ]
    graph = helper.make_graph(
        constants,
        "g",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, [1, None])],
        [helper.make_tensor_value_info("score", 1, score.shape), helper.make_tensor_value_info("log_scale", 1, [1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = write_small(tmp_path / "odd.psamf", model.SerializeToString())
    with open_backend(open_bundle(path), "cpu") as backend, pytest.raises(PsamfError, match=message):
        backend.run(Features(ids=np.array([1, 2])))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.txt", b"\xff" * 1000),
        ("vocab.txt", b"hello\n"),
        ("vocab.txt", b""),
        ("face_mesh.onnx", b""),
        ("expression.onnx", b"junk" * 100),
        ("text.onnx", (DEFAULT_BUNDLE / "face.onnx").read_bytes()),
        ("face_detector.onnx", (DEFAULT_BUNDLE / "expression.onnx").read_bytes()),
        ("face_mesh.onnx", (DEFAULT_BUNDLE / "face_detector.onnx").read_bytes()),
    ],
)
def test_files_that_are_something_else(tmp_path, name, content, sample_frames):
    """Well sealed, but a model in the place of another, or none at all."""
    copy = copy_default(tmp_path)
    (copy / name).write_bytes(content)
    reseal(copy)

    def use() -> None:
        scorer = Scorer(copy, "cpu", 1)
        for image, time_ms in sample_frames:
            scorer.face.observe(image, time_ms)
        scorer._backend.run(Features(ids=np.array([101, 102])))

    with pytest.raises(PsamfError):
        use()


@pytest.mark.parametrize(
    "engine", [b"\x7fELF\x02\x01\x01" + b"\0" * 9 + b"\x03\0\xb7\0" + b"\0" * 500, b"", b"ftrt" * 99]
)
def test_an_engine_for_another_machine(tmp_path, engine):
    """An object file for ARM, nothing, and junk: with a GPU or without one, never loaded in silence."""
    copy = copy_default(tmp_path)
    (copy / "x.engine").write_bytes(engine)

    def add(manifest: dict) -> None:
        manifest["target"] = "rtx"
        manifest["engines"] = {"flavour": "tensorrt_rtx", "version": "1.0.0.0", "devices": "sm_53"}
        manifest["files"]["x.engine"] = {}
        for step in manifest["plan"]:
            step["engine"] = "x.engine"

    rewrite(copy, add)
    reseal(copy)
    with pytest.raises((IntegrityError, MissingDependencyError)):
        open_backend(open_bundle(copy), "cuda")


@pytest.mark.parametrize("flavour", ["os", "psamf_edge.cli", "../evil", "tensorrt_rtx.evil", ""])
def test_the_flavour_of_an_engine_imports_nothing_else(tmp_path, flavour, monkeypatch):
    """The manifest names a Python module: only the two that are meant may be imported by it."""
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    path = write_small(tmp_path / "small.psamf")

    def add(manifest: dict) -> None:
        manifest["engines"] = {"flavour": flavour, "version": "1", "devices": "all"}
        manifest["plan"][0]["engine"] = "all.onnx"

    rewrite(path, add)
    with pytest.raises(PsamfError):
        open_backend(open_bundle(path), "cuda")
