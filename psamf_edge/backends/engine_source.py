"""Where the engines of a bundle come from on this machine: the bundle, the user's cache, or TensorRT's builder.

An engine is for one version of one flavour, and with full TensorRT for one model of GPU. Where those of the bundle do
not fit, or it carries none, they are built from its ONNX files and kept for the next time. `note` says in one sentence
that something was built, and why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType

from psamf_edge.backends.engine_builder import PORTABLE, BuildOptions, EngineBuilder
from psamf_edge.backends.engines import Engine
from psamf_edge.backends.profile import ranges_of
from psamf_edge.bundle import Bundle, PlanSegment
from psamf_edge.engine_cache import EngineCache, key_of
from psamf_edge.errors import IntegrityError, MissingDependencyError

Load = Callable[[bytes, PlanSegment, bytes | None], Engine]  # content, segment, compiled kernels of an earlier run
# what an engine has to fit, besides being of this segment of this bundle
FITS = ("flavour", "version", "capability", "model", "precision", "profile", "options")
ABSENT = {"options": "default"}  # how a value reads that is not there; any other was not written down

log = logging.getLogger(__name__)


class EngineSource:
    """Engines for one bundle on one device.

    Args:
        bundle: with an ONNX file for each segment.
        trt: the module of the flavour.
        capability: of the GPU: major, minor.
        model: of the GPU, as `Driver.model`.
        cache: where engines are kept.
        options: how engines are built. None asked for: those of the bundle fit, however they were built.
    """

    def __init__(
        self,
        bundle: Bundle,
        trt: ModuleType,
        capability: tuple[int, int],
        model: str,
        cache: EngineCache,
        options: BuildOptions,
    ) -> None:
        self._bundle, self._trt, self._cache, self._options = bundle, trt, cache, options
        self._capability, self._model = "{}.{}".format(*capability), model
        self._ranges = ranges_of(bundle.shapes)
        self._builder: EngineBuilder | None = None
        self._misfit = self._why_not_the_bundles()
        self._built: list[str] = []
        self._reason = ""
        self._loaded: list[tuple[PlanSegment, Engine, bytes | None]] = []  # and the compiled kernels it began with

    @property
    def note(self) -> str | None:
        """What was built and why, in a sentence; and in another that it could not be kept. None: nothing was built."""
        if not self._built:
            return None
        count = "one engine" if len(self._built) == 1 else f"{len(self._built)} engines"
        note = f"TensorRT built {count} on this machine ({', '.join(self._built)}), since {self._reason}."
        return note if self._cache.problem is None else f"{note} {self._cache.problem}"

    def engine(self, segment: PlanSegment, load: Load) -> Engine:
        """The engine of one segment, loaded.

        Args:
            load: makes an Engine of its bytes, or raises IntegrityError.

        Raises:
            IntegrityError: a file of the bundle is damaged.
            MissingDependencyError: TensorRT does not load here what it has built here.
            BuildError: TensorRT builds none.
        """
        engine = self._from_bundle(segment, load) or self._from_cache(segment, load)
        if engine is None:
            with self._cache.lock():  # another process may be building the same, and then it is there
                engine = self._from_cache(segment, load) or self._from_builder(segment, load)
        return engine

    def end_building(self) -> None:
        """Every engine is loaded: let go of TensorRT's builder, which holds memory of the device."""
        self._builder = None

    def close(self) -> None:
        """Keep the kernels that engines have compiled since they were loaded, and let go of engines and builder."""
        self.end_building()
        loaded, self._loaded = self._loaded, []
        compiled = [(segment, engine.compiled_kernels(), before) for segment, engine, before in loaded]
        fresh = [(segment, kernels) for segment, kernels, before in compiled if kernels and kernels != before]
        if fresh:
            with self._cache.lock(wait=False) as is_held:  # a close must not wait for somebody's build
                for segment, kernels in fresh if is_held else ():
                    made_for = self._made_for(segment)
                    self._cache.put(_kernels_name(made_for), kernels, made_for)

    def _why_not_the_bundles(self) -> str | None:
        engines, trt = self._bundle.engines, self._trt
        if engines is None:
            return "the bundle carries none"
        if (engines.flavour, engines.version) != (trt.__name__, trt.__version__):
            return (
                f"those of the bundle are for {engines.flavour} {engines.version}, and {trt.__name__} {trt.__version__}"
                " is installed here"
            )
        if engines.capability not in (None, self._capability):
            return (
                f"those of the bundle are for the compute capability {engines.capability}, and this GPU has"
                f" {self._capability}"
            )
        if engines.flavour not in PORTABLE and engines.model != self._model:
            # TensorRT loads an engine of another model of the same capability, warns, and may be slow or wrong
            named = engines.model or "a GPU that their manifest does not name"
            return f"those of the bundle are for {named}, and this GPU is {self._model}"
        if self._options.name not in (None, engines.options):
            return f"those of the bundle were built with other options than {self._options.name}"
        return None

    def _from_bundle(self, segment: PlanSegment, load: Load) -> Engine | None:
        if self._misfit is not None:
            return None
        content = self._bundle.read(segment.engine)  # damage of the bundle is an error, and is never built over
        try:
            return self._load(content, segment, load)
        except IntegrityError as error:
            self._misfit = f"{segment.engine} of the bundle does not load here ({_first_line(error)})"
            return None

    def _from_cache(self, segment: PlanSegment, load: Load) -> Engine | None:
        made_for = self._made_for(segment)
        self._reason = self._reason or self._why_not_the_caches(made_for) or self._misfit or ""
        try:
            content = self._cache.get(_engine_name(made_for))
            return None if content is None else self._load(content, segment, load)
        except IntegrityError as error:
            self._reason = f"what the cache had does not serve: {_first_line(error)}"
            return None

    def _why_not_the_caches(self, made_for: dict) -> str | None:
        """The first difference to an engine of the same segment that the cache has, if it has one."""
        for other in self._cache.made_for():
            if all(other.get(name) == made_for[name] for name in ("bundle", "segment")):
                for name in FITS:
                    if other.get(name) != made_for.get(name):
                        values = [str(each.get(name) or ABSENT.get(name, "unknown")) for each in (other, made_for)]
                        return f"those in the cache have the {name} {values[0]}, and {values[1]} is due"
        return None

    def _from_builder(self, segment: PlanSegment, load: Load) -> Engine:
        made_for = self._made_for(segment)
        device = ("flavour", "version", "capability", "model")
        timings = {name: made_for[name] for name in device if name in made_for} | {"kind": "timings"}
        if self._builder is None:
            self._builder = EngineBuilder(self._trt.__name__, self._options, self._capability, self._model)
            if self._builder.timings is not None:
                self._builder.timings = self._kept(f"{key_of(timings)}.timings") or b""
        plugin = None if segment.plugin is None else self._builder.plugin()
        log.info("Building the engine of the segment %s, which takes seconds to minutes.", segment.name)
        content = self._builder.build(self._bundle.read(segment.file), segment.name, self._ranges, plugin)
        try:
            engine = self._load(content, segment, load)  # what does not load is not kept
        except IntegrityError as error:  # nor is it damaged
            raise MissingDependencyError(
                f"This GPU, of compute capability {self._capability}, does not take what {self._trt.__name__}"
                f" {self._trt.__version__} has just built for it: check that this version serves it and that memory is"
                f" free, or use `--device cpu`. {error}"
            ) from error
        self._cache.put(_engine_name(made_for), content, made_for)
        if self._builder.timings:
            self._cache.put(f"{key_of(timings)}.timings", self._builder.timings, timings)
        self._built.append(segment.name)
        return engine

    def _load(self, content: bytes, segment: PlanSegment, load: Load) -> Engine:
        kernels = self._kept(_kernels_name(self._made_for(segment)))
        engine = load(content, segment, kernels)
        self._loaded.append((segment, engine, kernels))
        return engine

    def _kept(self, name: str) -> bytes | None:
        """What only saves time: it is made again where the cache's is refused."""
        try:
            return self._cache.get(name)
        except IntegrityError:
            return None

    def _made_for(self, segment: PlanSegment) -> dict:
        model = {} if self._trt.__name__ in PORTABLE else {"model": self._model}
        return model | {
            "bundle": self._bundle.manifest_sha256,
            "segment": segment.name,
            "flavour": self._trt.__name__,
            "version": self._trt.__version__,
            "capability": self._capability,
            "precision": self._bundle.precision,
            "profile": {axis: list(sizes) for axis, sizes in self._ranges.items()},
            "options": self._options.name,
        }


def _engine_name(made_for: dict) -> str:
    return f"{key_of(made_for)}.engine"


def _kernels_name(made_for: dict) -> str:
    return f"{key_of(made_for)}.kernels"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")
