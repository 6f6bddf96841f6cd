"""What a training tells: lines on stderr, a CSV file, TensorBoard, and a progress bar where somebody is looking."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Log:
    """A CSV of (stage, step, name, value), flushed at each line, and the same on stderr through `echo`.

    Args:
        path: the CSV file, appended to; None writes none, as in all processes but the main one.
        echo: prints one line.
        tensorboard: folder of event files, or None.

    Raises:
        ModuleNotFoundError: TensorBoard is wanted and not installed; the command line makes a sentence of it.
    """

    def __init__(self, path: Path | None, echo: Callable[[str], None], tensorboard: Path | None = None) -> None:
        self.echo, self.start = echo, time.monotonic()
        self.file = self.board = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("a", newline="")
        if tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(tensorboard))

    def write(self, stage: str, step: int, values: dict[str, float]) -> None:
        """Numbers at a step, kept and shown."""
        if self.file:
            csv.writer(self.file).writerows([stage, step, name, f"{value:.5f}"] for name, value in values.items())
            self.file.flush()
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(f"{stage}/{name}", value, step)
            self.board.flush()
        shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        self.say(f"{stage} {step:6d}  {time.monotonic() - self.start:6.0f} s  {shown}")

    def say(self, line: str) -> None:
        """A line that is shown only, above the progress bar if there is one."""
        if "tqdm" not in sys.modules:
            self.echo(line)
            return
        from tqdm import tqdm

        with tqdm.external_write_mode(file=sys.stderr):
            self.echo(line)

    @contextmanager
    def progress(self, stage: str, total: int, done: int) -> Iterator[Callable[[], object]]:
        """A function to call after each step; it draws a bar if stderr is a terminal."""
        if not (self.file and sys.stderr.isatty()):
            yield lambda: None
            return
        from tqdm import tqdm

        with tqdm(desc=stage, total=total, initial=done, unit="step", leave=False, file=sys.stderr) as bar:
            yield bar.update
