"""The kernel as a plugin that is compiled ahead of time: TensorRT takes its PTX into the engine and launches it itself.

The engine calls it with the pointers of the inputs, then the scalars, then the pointer of the output: the signature of
the kernel. (No `annotations` import here: TensorRT reads the types of these functions.)
"""

from types import ModuleType

from psamf_edge.errors import UsageError
from psamf_edge.kernels.compiler import nvrtc
from psamf_edge.kernels.cross_modal_attention.launcher import BLOCK, SHARED, SOURCE, entry
from psamf_edge.kernels.plugin import NAME, NAMESPACE

FIRST = (10, 9)
BROKEN = (10, 14)  # compiles the plugin into engines that do not load


def declare(trt: ModuleType, arch: str) -> None:
    """Register the plugin `psamf::CrossModalAttention` with TensorRT, once in a process.

    Args:
        trt: the module `tensorrt`.
        arch: what the PTX is for: `compute_87` for an Orin and every later GPU.

    Raises:
        UsageError: this TensorRT has no such plugins, or is the version that breaks them.
    """
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if trt.__name__.startswith("tensorrt_rtx") or version < FIRST or version == BROKEN:
        raise UsageError(
            f"{trt.__name__} {trt.__version__} takes no plugins compiled ahead of time: 10.9 to 10.13 and 11 of full"
            " TensorRT do. Use the plan that launches the kernel between engines."
        )
    import tensorrt.plugin as plugin

    identity = f"{NAMESPACE}::{NAME}"
    Desc = plugin.TensorDesc

    @plugin.register(identity)
    def describe(query: Desc, audio: Desc, face: Desc, lengths: Desc, weights: Desc) -> Desc:
        batch, subsets, width = query.shape_expr
        return plugin.from_shape_expr((2, batch, subsets, width), query.dtype)

    @plugin.aot_impl(identity)
    def implement(
        query: Desc, audio: Desc, face: Desc, lengths: Desc, weights: Desc, outputs: tuple[Desc], tactic: int
    ) -> tuple[str | bytes, str | bytes, plugin.KernelLaunchParams, plugin.SymExprs]:
        B, S = query.shape_expr[0], query.shape_expr[1]
        Ta, Tv = audio.shape_expr[1], face.shape_expr[1]
        launch = plugin.KernelLaunchParams(B, S, 2, *BLOCK, SHARED)  # as launcher.launch_shape has it for numbers
        scalars = plugin.SymIntExprs.from_tuple(tuple(plugin.SymInt32(size) for size in (B, S, Ta, Tv)))
        return entry(trt.nptype(query.dtype)), nvrtc(SOURCE.read_text(), arch), launch, scalars
