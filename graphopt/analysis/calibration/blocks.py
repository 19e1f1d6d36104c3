"""Blocks as models have them, where operators meet each other: views before copies, products of what was permuted,
masks. The sizes go from toy models to those of BERT and ResNet."""

from __future__ import annotations

BLOCKS = ((2, 8, 4, 8), (2, 16, 2, 16), (1, 64, 8, 32), (1, 197, 6, 64))
"""Batch, length, heads, width of a head."""
IMAGES = ((2, 8, 8), (2, 16, 16), (1, 32, 28), (1, 64, 56))
"""Batch, channels, side."""
LENGTHS = (8, 16, 64, 256)


def blocks() -> list[str]:
    """The graphs."""
    found = [attention(*sizes) for sizes in BLOCKS]
    found += [products(*sizes) for sizes in BLOCKS]
    found += [convolutions(*sizes) for sizes in IMAGES]
    found += [masks(length) for length in LENGTHS]
    return found


def attention(batch: int, length: int, heads: int, width: int) -> str:
    """A layer of a transformer, as PyTorch's fused attention has it."""
    d = heads * width
    split = f"{{shape=({batch}, {length}, {heads}, {width})}}"
    lines = [f"input %x: f32[{batch}, {length}, {d}]", f"input %mask: f32[{batch}, 1, {length}, {length}]"]
    lines += [f"parameter %{w}: f32[{d}, {d}]" for w in ("wq", "wk", "wv", "wo")]
    lines += [f"parameter %{b}: f32[{d}]" for b in ("bq", "bk", "bv", "bo", "g", "h")]
    lines += [f"parameter %w1: f32[{4 * d}, {d}]", f"parameter %b1: f32[{4 * d}]"]
    lines += [f"parameter %w2: f32[{d}, {4 * d}]", f"parameter %b2: f32[{d}]"]
    lines.append(f"%n = aten.layer_norm(%x, %g, %h) {{normalized_shape=({d},)}}")
    for head in "qkv":
        lines.append(f"%{head}0 = aten.linear(%n, %w{head}, %b{head})")
        lines.append(f"%{head}1 = aten.reshape(%{head}0) {split}")
        lines.append(f"%{head}2 = aten.transpose.int(%{head}1) {{dim0=1, dim1=2}}")
    lines += [
        f"%a = aten.scaled_dot_product_attention(%q2, %k2, %v2{', %mask' if batch > 1 else ''})",
        "%t = aten.transpose.int(%a) {dim0=1, dim1=2}",
        "%c = aten.contiguous(%t)",
        f"%r = aten.reshape(%c) {{shape=({batch}, {length}, {d})}}",
        "%o = aten.linear(%r, %wo, %bo)",
        "%e = aten.dropout(%o) {p=0.1, train=false}",
        "%s = aten.add.Tensor(%x, %e)",
        f"%m = aten.layer_norm(%s, %g, %h) {{normalized_shape=({d},)}}",
        "%f = aten.linear(%m, %w1, %b1)",
        "%u = aten.gelu(%f)",
        "%p = aten.linear(%u, %w2, %b2)",
        "%y = aten.add.Tensor(%s, %p)",
        "%z = aten.select.int(%y) {dim=1, index=0}",
        "return %y, %z",
    ]
    return "\n".join(lines)


def products(batch: int, length: int, heads: int, width: int) -> str:
    """Attention by products of matrices, with rotated halves and a mask."""
    half = width // 2
    shape = f"f32[{batch}, {length}, {heads}, {width}]"
    lines = [f"input %q: {shape}", f"input %k: {shape}", f"input %v: {shape}"]
    lines += [f"parameter %cos: f32[{length}, {width}]", f"parameter %sin: f32[{length}, {width}]"]
    lines += [f"parameter %m: f32[1, 1, {length}, {length}]"]
    for name in "qk":
        lines += [
            f"%{name}t = aten.permute(%{name}) {{dims=(0, 2, 1, 3)}}",
            f"%{name}a = aten.slice.Tensor(%{name}t) {{dim=-1, start=0, end={half}}}",
            f"%{name}b = aten.slice.Tensor(%{name}t) {{dim=-1, start={half}, end={width}}}",
            f"%{name}n = aten.neg(%{name}b)",
            f"%{name}h = aten.cat(%{name}n, %{name}a) {{dim=-1}}",
            f"%{name}c = aten.mul.Tensor(%{name}t, %cos)",
            f"%{name}s = aten.mul.Tensor(%{name}h, %sin)",
            f"%{name}r = aten.add.Tensor(%{name}c, %{name}s)",
        ]
    lines += [
        "%kk = aten.transpose.int(%kr) {dim0=2, dim1=3}",
        "%p = aten.matmul(%qr, %kk)",
        "%d = aten.mul.Scalar(%p) {other=0.125}",
        "%l = aten.add.Tensor(%d, %m)",
        "%w = aten.softmax.int(%l) {dim=-1}",
        "%vt = aten.permute(%v) {dims=(0, 2, 1, 3)}",
        "%o = aten.matmul(%w, %vt)",
        "%u = aten.permute(%o) {dims=(0, 2, 1, 3)}",
        f"%y = aten.reshape(%u) {{shape=({batch}, {length}, {heads * width})}}",
        "%x2 = aten.pow.Tensor_Scalar(%y) {exponent=2}",
        "%mean = aten.mean.dim(%x2) {dim=(-1,), keepdim=true}",
        "%eps = aten.add.Scalar(%mean) {other=1e-06}",
        "%rs = aten.rsqrt(%eps)",
        "%z = aten.mul.Tensor(%y, %rs)",
        "%si = aten.silu(%z)",
        "%sp = aten.unsqueeze(%si) {dim=1}",
        "%ex = aten.exp(%sp)",
        "return %ex",
    ]
    return "\n".join(lines)


def convolutions(batch: int, channels: int, side: int) -> str:
    """A block with a residual, one with separable convolutions that step, and a head."""
    wide = 2 * channels
    lines = [f"input %x: f32[{batch}, {channels}, {side}, {side}]"]
    lines += [f"parameter %w: f32[{channels}, {channels}, 3, 3]", f"parameter %p: f32[{wide}, {channels}, 1, 1]"]
    lines += [f"parameter %d: f32[{wide}, 1, 3, 3]", f"parameter %v: f32[{wide}, {channels}, 3, 3]"]
    lines += [f"parameter %{n}: f32[{channels}]" for n in "abce"]
    lines += [f"parameter %{n}: f32[{wide}]" for n in ("a2", "b2", "m2", "e2")]
    lines += [f"parameter %o: f32[10, {wide}]"]
    norm = "{training=false, momentum=0.1, eps=1e-05, cudnn_enabled=true}"
    lines += [
        "%x1 = aten.pad(%x) {pad=(1, 1, 1, 1)}",
        "%c1 = aten.conv2d(%x1, %w)",
        f"%n1 = aten.batch_norm(%c1, %a, %b, %c, %e) {norm}",
        "%r1 = aten.relu(%n1)",
        "%c2 = aten.conv2d(%r1, %w) {padding=(1, 1)}",
        f"%n2 = aten.batch_norm(%c2, %a, %b, %c, %e) {norm}",
        "%s = aten.add.Tensor(%n2, %x)",
        "%r2 = aten.relu(%s)",
        "%c3 = aten.conv2d(%r2, %p)",
        f"%n3 = aten.batch_norm(%c3, %a2, %b2, %m2, %e2) {norm}",
        "%h = aten.hardtanh(%n3) {min_val=0.0, max_val=6.0}",
        f"%c4 = aten.conv2d(%h, %d) {{padding=(1, 1), stride=(2, 2), groups={wide}}}",
        "%c5 = aten.conv2d(%r2, %v) {padding=(1, 1), stride=(2, 2)}",
        "%t = aten.cat(%c4, %c5) {dim=1}",
        "%q = aten.mean.dim(%c5) {dim=(2, 3)}",
        "%l = aten.linear(%q, %o)",
        "%g = aten.adaptive_avg_pool2d(%t) {output_size=(1, 1)}",
        "%f2 = aten.flatten.using_ints(%g) {start_dim=1}",
        "%tok = aten.flatten.using_ints(%c5) {start_dim=2}",
        "%tt = aten.transpose.int(%tok) {dim0=1, dim1=2}",
        "%ct = aten.contiguous(%tt)",
        "return %l, %f2, %ct",
    ]
    return "\n".join(lines)


def masks(length: int) -> str:
    """Positions and masks, as models of language make them."""
    return f"""input %ids: i64[2, {length}]
parameter %w: f32[1000, 32]
%p = aten.arange() {{end={length}}}
%a = aten.unsqueeze(%p) {{dim=0}}
%b = aten.unsqueeze(%p) {{dim=1}}
%c = aten.le.Tensor(%a, %b)
%d = aten.unsqueeze(%c) {{dim=0}}
%e = aten.unsqueeze(%d) {{dim=0}}
%f = aten.expand(%e) {{size=(2, 1, {length}, {length})}}
%n = aten.ne.Scalar(%ids) {{other=1}}
%u = aten.unsqueeze(%n) {{dim=1}}
%v = aten.unsqueeze(%u) {{dim=1}}
%g = aten.__and__.Tensor(%f, %v)
%i = aten.add.Scalar(%ids) {{other=0}}
%h = aten.embedding(%w, %i)
%s = aten.cumsum(%ids) {{dim=1}}
return %g, %h, %s"""
