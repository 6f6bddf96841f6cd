"""Student to ONNX segments to bundle: export, quantise, check against PyTorch, pack."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from psamf_edge.errors import PsamfError


class ExportError(PsamfError):
    """An exported segment is not what PyTorch computes, or no engine comes out of it."""


@contextmanager
def quiet(logger_name: str | None) -> Iterator[None]:
    """Hold back the warnings of a logger (None: the root): advice of the exporters to their own developers."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
