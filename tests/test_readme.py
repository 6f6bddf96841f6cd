"""The documents say what the result files say."""

import pytest

from benchmarks.readme import DOCUMENTS, TABLES, filled


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tables_are_those_of_the_result_files(path):
    document = path.read_text()
    assert filled(document, TABLES) == document, "run python -m benchmarks.readme"
