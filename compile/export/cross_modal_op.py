"""The cross-modal block as one operation: `psamf::cross_modal_attention` in PyTorch, `CrossModalAttention` in ONNX.

One node answers all queries over both modalities, with the packed weights that the CUDA kernel reads (see
kernels/cross_modal_attention/packing.py). Three forms of it live here, and tests hold them equal:

- `reference`, plain PyTorch, differentiable, float64 too: what the operation means;
- the PyTorch operation, which an exporter keeps as one node;
- `function_body`, the node's meaning in standard ONNX operators, carried by the file itself: ONNX Runtime and
  TensorRT run such a file without the kernel.
"""

from __future__ import annotations

import functools
import math

import onnx
import torch
from onnx import OperatorSetIdProto, defs, parser
from onnxscript import values
from torch import Tensor
from torch.nn import functional as F

from psamf_edge.compile.model.attention import CrossModalBlock
from psamf_edge.kernels.cross_modal_attention.packing import HEADS, LAYOUT, WIDTH, pack

DOMAIN, OP, VERSION = "psamf", "CrossModalAttention", 1
INPUTS = ("query", "audio", "face", "lengths", "weights")  # in the order of the kernel's signature


def suits(width: int, heads: int) -> bool:
    """Whether a block of this size can be packed for the kernel."""
    return (width, heads) == (WIDTH, HEADS)


def packed_weights(audio: CrossModalBlock, face: CrossModalBlock) -> Tensor:
    """The kernel's weights of two blocks: (2, P) float32, row 0 the voice, row 1 the face; folded in float64."""
    rows = []
    for block in (audio, face):
        state = {name: value.detach().cpu().numpy() for name, value in block.state_dict().items()}
        rows.append(torch.from_numpy(pack(state, HEADS)))
    return torch.stack(rows)


def valid_lengths(audio_mask: Tensor, face_mask: Tensor, present: Tensor) -> Tensor:
    """How many steps each query may look at: (B, S, 2) int32, voice and face, 0 where the subset leaves it out.

    Args:
        audio_mask: (B, Ta) of 0 and 1, the ones first.
        face_mask: (B, Tv), likewise.
        present: (B, S, 3) of 0 and 1: text, audio, face.
    """
    steps = torch.stack([audio_mask.sum(1), face_mask.sum(1)], dim=1).to(torch.int32)  # (B, 2)
    return steps.unsqueeze(1) * present[:, :, 1:].to(torch.int32)


def reference(query: Tensor, audio: Tensor, face: Tensor, lengths: Tensor, weights: Tensor) -> Tensor:
    """The operation in plain PyTorch. Arguments as for `cross_modal_attention`; float64 is computed in float64."""
    exact = torch.float64 if query.dtype == torch.float64 else torch.float32
    t, rows = query.to(exact), weights.to(exact)
    contexts = [
        _block(t, steps.to(exact), lengths[:, :, i : i + 1], _fields(rows[i])) for i, steps in enumerate((audio, face))
    ]
    return torch.stack(contexts).to(query.dtype)  # (2, B, S, d)


def _fields(row: Tensor) -> dict[str, Tensor]:
    return {name: row[offset : offset + math.prod(shape)].view(shape) for name, (offset, shape) in LAYOUT.items()}


def _block(t: Tensor, h: Tensor, length: Tensor, w: dict[str, Tensor]) -> Tensor:
    """t (B, S, d), h (B, T, d), length (B, S, 1) -> (B, S, d)."""
    B, S, d = t.shape
    u = (t @ w["key_query"] + w["key_query_bias"]).view(B, S * HEADS, d)  # W_k folded into the query
    scores = (u @ h.transpose(1, 2)).view(B, S, HEADS, -1)  # (B, S, heads, T)
    hidden = torch.arange(h.shape[1], device=h.device) >= length  # (B, S, T)
    scores = scores.masked_fill(hidden.unsqueeze(2), torch.finfo(h.dtype).min)  # finite: no NaN where all is hidden
    mean = torch.softmax(scores, dim=3).view(B, S * HEADS, -1) @ h  # (B, S * heads, d)
    context = mean.view(B, S, HEADS * d) @ w["value_out"] + w["value_out_bias"]
    x = _norm(t + context * (length > 0), w["norm_weight"], w["norm_bias"])
    x = x + F.gelu(x @ w["up"] + w["up_bias"]) @ w["down"] + w["down_bias"]
    return _norm(x, w["output_norm_weight"], w["output_norm_bias"])


def _norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, weight.shape, weight, bias)


@torch.library.custom_op("psamf::cross_modal_attention", mutates_args=())
def cross_modal_attention(query: Tensor, audio: Tensor, face: Tensor, lengths: Tensor, weights: Tensor) -> Tensor:
    """Both modalities' cross-modal blocks for a batch of text queries.

    Args:
        query: (B, S, 64), the projected CLS of each modality subset.
        audio: (B, Ta, 64) steps of the voice, valid ones first; finite throughout.
        face: (B, Tv, 64), likewise.
        lengths: (B, S, 2) int32, valid steps of voice and face; 0 for a modality that is missing.
        weights: (2, P), see `packed_weights`.

    Returns:
        (2, B, S, 64) of the query's type: what was heard, and what was seen. Sums and statistics are at least float32.
    """
    return reference(query, audio, face, lengths, weights)


@cross_modal_attention.register_fake
def _(query: Tensor, audio: Tensor, face: Tensor, lengths: Tensor, weights: Tensor) -> Tensor:
    return query.new_empty((2, *query.shape))


def _setup_context(ctx: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: object, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Through the reference, computed again: the block is small beside what it would keep."""
    *floats, lengths, weights = ctx.saved_tensors
    wanted = [ctx.needs_input_grad[i] for i in (0, 1, 2, 4)]
    with torch.enable_grad():
        copies = [x.detach().requires_grad_(need) for x, need in zip((*floats, weights), wanted, strict=True)]
        contexts = reference(*copies[:3], lengths, copies[3])
    found = iter(torch.autograd.grad(contexts, [x for x in copies if x.requires_grad], gradient))
    query, audio, face, packed = (next(found) if need else None for need in wanted)
    return query, audio, face, None, packed


cross_modal_attention.register_autograd(_backward, setup_context=_setup_context)


@functools.cache
def translation_table() -> dict:
    """What `torch.onnx.export` needs to write the operation as one node."""
    kind = defs.OpSchema.FormalParameter
    types = {name: "L" if name == "lengths" else "T" for name in INPUTS}
    schema = defs.OpSchema(
        OP,
        DOMAIN,
        VERSION,
        inputs=[kind(name, letter) for name, letter in types.items()],
        outputs=[kind("contexts", "T")],
        type_constraints=[
            ("T", ["tensor(float)", "tensor(float16)"], "all real tensors"),
            ("L", ["tensor(int32)"], ""),
        ],
    )
    node = values.Op(values.Opset(DOMAIN, VERSION), OP, schema)

    def translate(query, audio, face, lengths, weights):
        return node(query, audio, face, lengths, weights)

    return {torch.ops.psamf.cross_modal_attention.default: translate}


# One modality. Queries and heads share an axis of S * heads rows, so that every product is one matrix product a sample.
_BODY = """
h_{m} = Cast <to = 1> ({m})
product_{m} = MatMul (t, key_query_{m})
folded_{m} = Add (product_{m}, key_query_bias_{m})
u_{m} = Reshape (folded_{m}, head_width)
h_transposed_{m} = Transpose <perm = [0, 2, 1]> (h_{m})
scores_{m} = MatMul (u_{m}, h_transposed_{m})
steps_{m} = Shape <start = 1, end = 2> (h_{m})
steps_scalar_{m} = Squeeze (steps_{m}, axis0)
range64_{m} = Range (zero, steps_scalar_{m}, one)
range_{m} = Cast <to = 6> (range64_{m})
lengths_heads_{m} = Expand (lengths_{m}, two_heads)
lengths_rows_{m} = Reshape (lengths_heads_{m}, by_head)
valid_{m} = Less (range_{m}, lengths_rows_{m})
seen_scores_{m} = Where (valid_{m}, scores_{m}, lowest)
shares_{m} = Softmax <axis = -1> (seen_scores_{m})
means_{m} = MatMul (shares_{m}, h_{m})
joined_{m} = Reshape (means_{m}, joined_width)
value_product_{m} = MatMul (joined_{m}, value_out_{m})
value_{m} = Add (value_product_{m}, value_out_bias_{m})
any_{m} = Greater (lengths_{m}, none)
any_float_{m} = Cast <to = 1> (any_{m})
context_{m} = Mul (value_{m}, any_float_{m})
residual_{m} = Add (t, context_{m})
x_{m} = LayerNormalization <axis = -1, epsilon = 1e-5> (residual_{m}, norm_weight_{m}, norm_bias_{m})
up_product_{m} = MatMul (x_{m}, up_{m})
up_sum_{m} = Add (up_product_{m}, up_bias_{m})
hidden_{m} = Gelu (up_sum_{m})
down_product_{m} = MatMul (hidden_{m}, down_{m})
down_sum_{m} = Add (down_product_{m}, down_bias_{m})
wide_{m} = Add (x_{m}, down_sum_{m})
normed_{m} = LayerNormalization <axis = -1, epsilon = 1e-5> (wide_{m}, output_norm_weight_{m}, output_norm_bias_{m})
out_{m} = Unsqueeze (normed_{m}, axis0)
"""


def function_body(opset: int) -> onnx.FunctionProto:
    """The node's meaning in standard operators, whatever T is: it computes in float32, as the kernel does."""
    lines = [
        "t = Cast <to = 1> (query)",
        "rows = Cast <to = 1> (weights)",
        "axis0 = Constant <value_ints = [0]> ()",
        "row_and_offset = Constant <value_ints = [0, 1]> ()",
        "zero = Constant <value_int = 0> ()",
        "one = Constant <value_int = 1> ()",
        "none = Constant <value = int32 {0}> ()",
        f"lowest = Constant <value_float = {torch.finfo(torch.float32).min!r}> ()",
        f"two_heads = Constant <value_ints = [1, 1, {HEADS}]> ()",
        "by_head = Constant <value_ints = [0, -1, 1]> ()",
        f"head_width = Constant <value_ints = [0, -1, {WIDTH}]> ()",
        f"joined_width = Constant <value_ints = [0, -1, {HEADS * WIDTH}]> ()",
        "lengths_audio, lengths_face = Split <axis = 2, num_outputs = 2> (lengths)",
    ]
    for row, m in enumerate(("audio", "face")):
        for name, (offset, shape) in LAYOUT.items():
            lines += [
                f"from_{name}_{m} = Constant <value_ints = {[row, offset]}> ()",
                f"to_{name}_{m} = Constant <value_ints = {[row + 1, offset + math.prod(shape)]}> ()",
                f"shape_{name}_{m} = Constant <value_ints = {list(shape)}> ()",
                f"packed_{name}_{m} = Slice (rows, from_{name}_{m}, to_{name}_{m}, row_and_offset)",
                f"{name}_{m} = Reshape (packed_{name}_{m}, shape_{name}_{m})",
            ]
        lines.append(_BODY.format(m=m))
    lines += ["both = Concat <axis = 0> (out_audio, out_face)", "contexts = CastLike (both, query)"]
    head = f'<opset_import: ["" : {opset}], domain: "{DOMAIN}"> {OP} ({", ".join(INPUTS)}) => (contexts)'
    return parser.parse_function("\n".join([head, "{", *lines, "}"]))


def attach_body(model: onnx.ModelProto, opset: int) -> None:
    """Give a model that has the node the node's body. Nothing happens to one that has none."""
    if any(node.domain == DOMAIN and node.op_type == OP for node in model.graph.node):
        model.functions.append(function_body(opset))
        if not any(entry.domain == DOMAIN for entry in model.opset_import):
            model.opset_import.append(OperatorSetIdProto(domain=DOMAIN, version=VERSION))
