"""A stand-in for a GPU: memory that holds real numbers, streams that run late, graphs, and a judge of data races.

Work on a stream is done when the host waits for it, not before, so that a result read too early is wrong. Memory begins
as NaN, so that nothing can count on a clean buffer. And each piece of work says which bytes it reads and writes: two
that touch the same bytes, one of them writing, must be ordered by their stream or by events, or the test ends.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

Region = tuple[int, int]  # address and size in bytes


class Code(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222
    CUDA_ERROR_INVALID_HANDLE = 400
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901
    CUDA_ERROR_STREAM_CAPTURE_UNJOINED = 904


class CudaError(Exception):
    """What the fronts turn into their own way to fail."""

    def __init__(self, code: Code) -> None:
        super().__init__(code.name)
        self.code = code


@dataclass
class Work:
    """One thing on a stream."""

    name: str
    reads: list[Region]
    writes: list[Region]
    run: Callable[[], None]


@dataclass
class Timeline:
    """What has been put on all streams since they were last empty, or in one capture."""

    accesses: list[tuple[int, int, Work]] = field(default_factory=list)  # stream, number on it, work

    def add(self, stream: int, number: int, clock: dict[int, int], work: Work) -> None:
        for other, at, earlier in self.accesses:
            if clock.get(other, 0) >= at:
                continue
            for ours, theirs in (
                (work.writes, earlier.writes), (work.writes, earlier.reads), (work.reads, earlier.writes),
            ):  # fmt: skip
                assert not any(_overlap(a, b) for a in ours for b in theirs), f"{work.name} races with {earlier.name}"
        self.accesses.append((stream, number, work))


def _overlap(a: Region, b: Region) -> bool:
    return a[0] < b[0] + b[1] and b[0] < a[0] + a[1]


@dataclass
class Capture:
    origin: int
    works: list[Work] = field(default_factory=list)
    timeline: Timeline = field(default_factory=Timeline)
    streams: dict[int, dict[int, int]] = field(default_factory=dict)  # each one's clock before it joined
    valid: bool = True


@dataclass
class Stream:
    queue: list[tuple[int, Work]] = field(default_factory=list)
    clock: dict[int, int] = field(default_factory=dict)  # of each stream, how much of it came before what comes next
    capture: Capture | None = None


@dataclass
class Event:
    clock: dict[int, int] = field(default_factory=dict)
    capture: Capture | None = None


class FakeGpu:
    """The state. `calls` holds every call by name and arguments; `fail` names calls that will return an error."""

    def __init__(self, integrated: bool = False) -> None:
        self.integrated = integrated
        self.capability = (8, 7)
        self.name, self.multiprocessors = "Orin", 16
        self.cuda_version = 13000  # of the driver
        self.calls: list[tuple] = []
        self.fail: dict[str, Code] = {}
        self.memory: dict[int, ctypes.Array] = {}  # on the device
        self.pinned: dict[int, ctypes.Array] = {}
        self.modules: dict[int, bytes] = {}
        self.functions: dict[int, str] = {}
        self.streams: dict[int, Stream] = {}
        self.default = Stream()  # whose handle is 0; no stream of `streams` waits for it
        self.events: dict[int, Event] = {}
        self.graphs: dict[int, Capture] = {}
        self.contexts_held = 0
        self.launched: list[str] = []  # entries of kernels, in the order in which they ran
        self.kernels: dict[str, Callable[[tuple], Work]] = {}  # entry to what a launch with these arguments does
        self._handles = itertools.count(1000)
        self._numbers = itertools.count(1)
        self._timeline = Timeline()
        self._current = threading.local()

    @property
    def model(self) -> str:
        """As `Driver.model`."""
        return f"{self.name} with {self.multiprocessors} multiprocessors"

    def names(self) -> list[str]:
        """The calls by name alone."""
        return [call[0] for call in self.calls]

    def enter(self, name: str, *arguments: object) -> None:
        """Note a call; fail it if a test wants that, or if the thread has no context for it."""
        self.calls.append((name, *arguments))
        if name in self.fail:
            raise CudaError(self.fail[name])
        if not name.startswith(("cuInit", "cuDriver", "cuDevice", "cuCtxPush")) and not self.context_stack:
            raise CudaError(Code.CUDA_ERROR_INVALID_CONTEXT)

    @property
    def context_stack(self) -> list[str]:
        """Of the calling thread."""
        if not hasattr(self._current, "stack"):
            self._current.stack = []
        return self._current.stack

    @property
    def is_clean(self) -> bool:
        """Whether everything was given back."""
        left = (self.memory, self.pinned, self.modules, self.streams, self.events, self.graphs, self.context_stack)
        return self.contexts_held == 0 and not any(left)

    def handle(self) -> int:
        return next(self._handles)

    def allocate(self, size: int, where: dict[int, ctypes.Array]) -> int:
        if size == 0:
            raise CudaError(Code.CUDA_ERROR_INVALID_VALUE)
        if any(stream.capture for stream in self.streams.values()):
            self.spoil()
            raise CudaError(Code.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
        block = ctypes.create_string_buffer(b"\xff" * size, size)
        where[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def spoil(self) -> None:
        """Something was called that no capture allows."""
        for stream in self.streams.values():
            if stream.capture:
                stream.capture.valid = False

    def check(self, region: Region) -> Region:
        """The region lies within one allocation that the device can reach, or the GPU would fault."""
        address, size = region
        reachable = {**self.memory, **(self.pinned if self.integrated else {})}
        if not any(base <= address and address + size <= base + len(block) for base, block in reachable.items()):
            raise CudaError(Code.CUDA_ERROR_ILLEGAL_ADDRESS)
        return region

    def stream(self, handle: int) -> Stream:
        return self.streams[handle] if handle else self.default

    def put(self, handle: int, work: Work) -> None:
        """Put work on a stream, or into the graph that is being captured from it."""
        stream = self.stream(handle)
        number = next(self._numbers)
        stream.clock[handle] = number
        if stream.capture:
            stream.capture.timeline.add(handle, number, stream.clock, work)
            stream.capture.works.append(work)
        else:
            self._timeline.add(handle, number, stream.clock, work)
            stream.queue.append((number, work))

    def record(self, event: int, stream: int) -> None:
        source = self.streams[stream]
        self.events[event] = Event(dict(source.clock), source.capture)

    def wait(self, stream: int, event: int) -> None:
        waiting, awaited = self.streams[stream], self.events[event]
        if awaited.capture and waiting.capture is None:
            assert not waiting.queue, "a stream joins a capture with work still on it"
            waiting.capture = awaited.capture
            awaited.capture.streams[stream] = dict(waiting.clock)
        for other, number in awaited.clock.items():
            waiting.clock[other] = max(number, waiting.clock.get(other, 0))
        if waiting.capture is None:
            clock = dict(awaited.clock)
            waiting.queue.append((next(self._numbers), Work("wait", [], [], lambda: self._reach(clock))))

    def synchronise(self, handle: int) -> None:
        stream = self.stream(handle)
        if stream.capture:
            self.spoil()
            raise CudaError(Code.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
        self._reach({handle: stream.clock.get(handle, 0)})
        while stream.queue:
            stream.queue.pop(0)[1].run()
        if not any(other.queue for other in (self.default, *self.streams.values())):
            self._timeline = Timeline()

    def _reach(self, clock: dict[int, int]) -> None:
        """Run each stream as far as the clock says."""
        for handle, number in clock.items():
            queue = self.stream(handle).queue
            while queue and queue[0][0] <= number:
                queue.pop(0)[1].run()

    def begin_capture(self, handle: int) -> None:
        stream = self.streams[handle]
        assert not stream.queue, "a capture begins with work still on the stream"
        stream.capture = Capture(handle)
        stream.capture.streams[handle] = dict(stream.clock)

    def end_capture(self, handle: int) -> Capture:
        capture = self.streams[handle].capture
        assert capture
        assert capture.origin == handle
        clock = self.streams[handle].clock
        joined = all(self.streams[h].clock.get(h, 0) <= clock.get(h, 0) for h in capture.streams)
        for other, before in capture.streams.items():
            self.streams[other].capture, self.streams[other].clock = None, before
        if not capture.valid:
            raise CudaError(Code.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
        if not joined:
            raise CudaError(Code.CUDA_ERROR_STREAM_CAPTURE_UNJOINED)
        return capture

    def launch_graph(self, graph: int, stream: int) -> None:
        works = self.graphs[graph].works

        def run() -> None:
            for work in works:
                work.run()

        self.put(stream, Work("graph", [r for w in works for r in w.reads], [r for w in works for r in w.writes], run))

    def launch_kernel(self, function: int, arguments: tuple, stream: int) -> None:
        entry = self.functions[function]
        work = self.kernels[entry](arguments)
        for region in (*work.reads, *work.writes):
            self.check(region)

        def run() -> None:
            self.launched.append(entry)
            work.run()

        self.put(stream, Work(entry, work.reads, work.writes, run))

    def upload(self, to: int, source: int, size: int) -> None:
        """The copy from memory that is not pinned, which returns once the bytes are staged."""
        staged = ctypes.string_at(source, size)
        self.put(0, Work("upload", [], [self.check((to, size))], lambda: ctypes.memmove(to, staged, size)))

    def copy(self, to: int, source: int, size: int, stream: int, name: str) -> None:
        self.put(stream, Work(name, [(source, size)], [(to, size)], lambda: ctypes.memmove(to, source, size)))
