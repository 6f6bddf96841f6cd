"""A folder that this process may not enter, also where the tests run as root, whom no permission stops."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534


@contextlib.contextmanager
def locked_folder() -> Iterator[Path]:
    """`locked` in a folder of its own, where others may write; while the context lasts, root is nobody.

    Import before what is to be used inside: nobody may not be able to read it.
    """
    if not hasattr(os, "setresuid"):
        pytest.skip("permissions and users as Linux has them")
    user = os.getuid()
    base = Path(tempfile.mkdtemp())  # not in tmp_path, which is its user's alone
    try:
        base.chmod(0o777)
        (base / "locked").mkdir(mode=0)
        if user == 0:
            os.setresuid(NOBODY, NOBODY, user)  # os.access asks for the real user
        if os.access(base / "locked", os.X_OK):
            pytest.skip("nothing is locked for this user")
        yield base / "locked"
    finally:
        os.setresuid(user, user, user)
        (base / "locked").chmod(0o700)
        shutil.rmtree(base)
