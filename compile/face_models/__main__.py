"""`python -m psamf_edge.compile.face_models WHEEL_OR_TFLITE_DIR -o OUT_DIR`: writes face_detector.onnx, face_mesh.onnx
and their notice. The wheel is mediapipe 0.10.21 (PyPI); later wheels carry no models."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import click

from psamf_edge.compile.face_models.convert import OPSET, convert
from psamf_edge.compile.files import atomic
from psamf_edge.errors import InputError, IntegrityError, PsamfError

VERSION = "0.10.21"
# Output name -> file inside the wheel, SHA-256 of the file these outputs were checked with.
SOURCES = {
    "face_detector.onnx": (
        "mediapipe/modules/face_detection/face_detection_short_range.tflite",
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    ),
    "face_mesh.onnx": (
        "mediapipe/modules/face_landmark/face_landmark.tflite",
        "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
    ),
}
_SIZE_LIMIT = 16 << 20  # bytes; the larger file is 1.2 MB, so anything near this is not one of them


def read_source(source: Path, member: str) -> bytes:
    """One TFLite file from a wheel, or from a directory that holds it anywhere below.

    Raises:
        InputError: the file is not there, there more than once, or far too large.
    """
    if source.is_dir():
        found = sorted(source.rglob(Path(member).name))
        if len(found) != 1:
            raise InputError(f"{source} holds {len(found)} files named {Path(member).name}; it must hold exactly one.")
        size, read = found[0].stat().st_size, found[0].read_bytes
    else:
        try:
            wheel = zipfile.ZipFile(source)
            size, read = wheel.getinfo(member).file_size, lambda: wheel.read(member)
        except (zipfile.BadZipFile, KeyError) as error:
            raise InputError(f"{source} is not a wheel that holds {member}; give mediapipe {VERSION}.") from error
    if size > _SIZE_LIMIT:
        raise InputError(f"{member} has {size} bytes; at most {_SIZE_LIMIT} are read.")
    return read()


def notice() -> str:
    """The attribution that Apache-2.0 asks for, beside the converted files."""
    lines = [
        "face_detector.onnx and face_mesh.onnx are modified copies of two models of MediaPipe",
        "(https://github.com/google-ai-edge/mediapipe), Copyright The MediaPipe Authors, licensed under the",
        "Apache License, Version 2.0 (http://www.apache.org/licenses/LICENSE-2.0).",
        "",
        f"Taken from: the mediapipe {VERSION} wheel on PyPI.",
        f"Changed: converted from TFLite to ONNX (opset {OPSET}) by `python -m psamf_edge.compile.face_models`:",
        "NCHW layout, PReLU written with BatchNormalization, Relu and Add, channels padded by Conv.",
        "The weights are unchanged.",
        "",
    ]
    for output, (member, digest) in SOURCES.items():
        lines += [f"{output}", f"  from    {member}", f"  sha256  {digest}", ""]
    return "\n".join(lines)


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write."
)
def main(source: Path, output: Path) -> None:
    """Convert the face models in SOURCE (the mediapipe wheel, or a folder with its .tflite files) to ONNX."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, (member, expected) in SOURCES.items():
            data = read_source(source, member)
            digest = hashlib.sha256(data).hexdigest()
            if digest != expected:
                raise IntegrityError(
                    f"{member} has SHA-256 {digest}, not {expected}; take it from mediapipe {VERSION}."
                )
            model = convert(data, Path(name).stem)
            with atomic(output / name) as new:
                new.write_bytes(model)
            click.echo(f"{output / name}: {len(model)} bytes", err=True)
        with atomic(output / "NOTICE-mediapipe.txt") as new:
            new.write_text(notice(), encoding="utf-8")
    except PsamfError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
