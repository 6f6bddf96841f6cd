"""Scores in company: threads with an Analyzer each or one for all, processes, Analyzers that come and go, a fork."""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.endurance.clips import said
from benchmarks.endurance.readings import HELD, read
from psamf_edge.analyzer import Analyzer
from psamf_edge.errors import PsamfError

PATIENCE_S = 120.0  # for what takes a second, on a machine with other work; beyond, it hangs
WORDS = (
    "I loved every minute of it.",
    "It was the worst evening of my life.",
    "The crew repairs an antenna.",
    "Well. It has its moments, I would say, and then it goes on for another hour about nothing at all!",
)
Call = tuple[Path | None, str | None]  # a clip, words, or both
Said = dict[Call, str]


def calls_of(clips: Sequence[Path]) -> list[Call]:
    """What every thread and process scores: each clip, one of them with words, and words alone."""
    return [*((clip, None) for clip in clips), (clips[0], WORDS[0]), *((None, words) for words in WORDS)]


def score_all(analyzer: Analyzer, calls: Sequence[Call], seed: int) -> Said:
    """Every call, in an order of its own."""
    shuffled = random.Random(seed).sample(calls, len(calls))
    return {call: said(analyzer(call[0], text=call[1])) for call in shuffled}


def alone(calls: Sequence[Call], seed: int) -> Said:
    """With an Analyzer of its own."""
    with Analyzer(device="cpu") as analyzer:
        return score_all(analyzer, calls, seed)


def threads_each(calls: Sequence[Call], threads: int) -> list[Said]:
    """As many Analyzers as threads."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda seed: alone(calls, seed), range(threads)))


def threads_shared(calls: Sequence[Call], threads: int) -> list[Said]:
    """One Analyzer for all threads."""
    with Analyzer(device="cpu") as analyzer, ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda seed: score_all(analyzer, calls, seed), range(threads)))


def processes(calls: Sequence[Call], count: int, threads: int) -> list[Said]:
    """So many new processes at the same time, and in each so many threads that share an Analyzer."""
    with ProcessPoolExecutor(count, get_context("spawn")) as pool:
        parts = [pool.submit(threads_shared, calls, threads) for _ in range(count)]
        return [found for part in parts for found in part.result()]


def come_and_go(call: Call, threads: int, rounds: int) -> list[Said]:
    """Each thread loads an Analyzer, scores and closes it, again and again."""

    def visit(seed: int) -> list[Said]:
        return [alone([call], seed) for _ in range(rounds)]

    with ThreadPoolExecutor(threads) as pool:
        return [found for visits in pool.map(visit, range(threads)) for found in visits]


def closed_meanwhile(call: Call) -> str:
    """Close an Analyzer while it is at work, and tell what the call that was at work ended in."""
    heard = []

    def score() -> None:
        try:
            heard.append(said(analyzer(call[0], on_progress=lambda share: begun.set())))
        except PsamfError as error:
            heard.append(f"refused: {error}")

    begun = threading.Event()
    with Analyzer(device="cpu") as analyzer:
        thread = threading.Thread(target=score, daemon=True)
        thread.start()
        begun.wait(PATIENCE_S)
    thread.join(PATIENCE_S)
    return heard[0] if heard else "no end"


def forked(call: Call) -> tuple[str, bool]:
    """Fork a process with a loaded Analyzer: what the new one is told, and whether the old one goes on as before."""
    with Analyzer(device="cpu") as analyzer:
        before = said(analyzer(call[0], text=call[1]))
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                answer = "scored: " + said(analyzer(call[0], text=call[1]))
            except BaseException as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(theirs, answer.encode()[: select.PIPE_BUF])
            os._exit(0)
        os.close(theirs)
        answered = select.select([ours], [], [], PATIENCE_S)[0]
        answer = os.read(ours, select.PIPE_BUF).decode() if answered else "no answer"
        os.close(ours)
        if not answered:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return answer, said(analyzer(call[0], text=call[1])) == before


def run(clips: Sequence[Path], threads: int, count: int, rounds: int = 3) -> dict:
    """Every way of company against one thread in one process.

    Returns:
        the record of the section; `complaints` is empty where all is well.
    """
    calls = calls_of(clips)
    truth = alone(calls, seed=0)
    sample: Call = (clips[0], None)
    complaints: list[str] = []
    record: dict = {"calls": len(calls)}
    ways = {
        f"{threads} threads, an Analyzer each": lambda: threads_each(calls, threads),
        f"{threads} threads, one Analyzer": lambda: threads_shared(calls, threads),
        f"{count} processes of {threads} threads, spawned": lambda: processes(calls, count, threads),
        f"{threads} threads, Analyzers made and closed": lambda: come_and_go(sample, threads, rounds),
    }
    before = read(0)
    for name, way in ways.items():
        print(f"  {name}", file=sys.stderr)
        found = way()
        scored = sum(map(len, found))
        differing = sum(truth[call] != heard for said_there in found for call, heard in said_there.items())
        record[name] = {"scored": scored, "differing": differing}
        if differing:
            complaints.append(f"{name}: {differing} of {scored} scores are not those of one thread in one process.")
    ended = closed_meanwhile(sample)
    record["closed while at work"] = "a result" if ended == truth[sample] else ended
    if ended != truth[sample] and not ended.startswith("refused"):
        complaints.append(f"An Analyzer that was closed while at work gave {ended}.")
    told, goes_on = forked(sample)
    record["forked after loading"] = told
    if not told.startswith("UsageError") or not goes_on:
        complaints.append(f"After a fork the new process got {told!r}; the old one goes on: {goes_on}.")
    after = read(0)
    left = {name: (getattr(before, name), getattr(after, name)) for name in HELD}
    record["held before and after"] = left
    # spawning leaves multiprocessing's own tracker: one process, and its pipe
    allowed = {"children": 1, "handles": 1, "decoder_handles": after.decoder_handles}
    complaints += [f"{name} rose from {was} to {now}." for name, (was, now) in left.items()
                   if now > was + allowed.get(name, 0)]  # fmt: skip
    return {**record, "complaints": complaints}
