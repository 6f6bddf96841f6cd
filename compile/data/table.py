"""CSV files with a header: what keeps one from being read is said in a sentence."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from psamf_edge.errors import UsageError

LONGEST_FIELD = 1 << 20  # characters; the longest essay has 13 thousand, csv's own limit is 131 thousand


@contextmanager
def open_table(path: Path, needed: Sequence[str]) -> Iterator[csv.DictReader]:
    """The rows of a CSV file in UTF-8, with or without BOM, whose header names at least the columns `needed`.

    A row that is cut short has None in the cells that it lacks.

    Raises:
        UsageError: there is no such file, it is not CSV in UTF-8, or it lacks a column. So does reading the rows.
    """
    limit = csv.field_size_limit(LONGEST_FIELD)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or ()
            if missing := sorted(set(needed) - set(columns)):
                raise UsageError(
                    f"{path} lacks the columns {', '.join(missing)}; its columns are {', '.join(columns) or 'none'}."
                )
            yield reader
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); give a CSV file.") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no UTF-8 CSV file ({error}); save it as such, or fetch it again.") from error
    finally:
        csv.field_size_limit(limit)
