from __future__ import annotations

import pytest
import torch
from torch import nn

from graphopt.analysis.interpreter import Interpreter
from graphopt.ops import parse
from graphopt.passes.fold_batch_norm import FoldBatchNorm
from graphopt.passmanager import PassContext

INTO_PREVIOUS = {"batch-norm-into-previous": 1}
INTO_NEXT = {"batch-norm-into-next": 1}


def statistics(channels: int, *, shift: bool = True) -> dict[str, torch.Tensor]:
    """γ, β, μ, σ² of a batch norm, away from trivial values; without shift, t = β − μ s is 0."""
    generator = torch.Generator().manual_seed(channels)
    gamma, beta, mean = (torch.randn(channels, generator=generator) for _ in range(3))
    variance = torch.rand(channels, generator=generator) + 0.3
    if not shift:
        beta, mean = torch.zeros(channels), torch.zeros(channels)
    return {"gamma": gamma, "beta": beta, "mean": mean, "var": variance}


def declare(channels: int) -> str:
    return "".join(f"buffer %{name}: f32[{channels}]\n" for name in ("gamma", "beta", "mean", "var"))


def norm(source: str, training: str = "false") -> str:
    attributes = f"training={training}, momentum=0.1, eps=1e-05, cudnn_enabled=true"
    return f"aten.batch_norm(%{source}, %gamma, %beta, %mean, %var) {{{attributes}}}"


LAYERS = [
    ("f32[N, 4, 9]", "f32[6, 4, 3]", "aten.conv1d(%x, %w, %b) {padding=1}", 6),
    ("f32[N, 4, 6, 6]", "f32[6, 4, 3, 3]", "aten.conv2d(%x, %w) {stride=2, padding=1}", 6),
    ("f32[N, 4, 6, 6]", "f32[6, 2, 3, 3]", "aten.conv2d(%x, %w, %b) {groups=2, dilation=2, padding=2}", 6),
    ("f32[N, 2, 4, 4, 4]", "f32[6, 2, 2, 2, 2]", "aten.conv3d(%x, %w, %b)", 6),
    ("f32[N, 4, 5]", "f32[4, 6, 3]", "aten.conv_transpose1d(%x, %w, %b)", 6),
    ("f32[N, 4, 5, 5]", "f32[4, 3, 3, 3]", "aten.conv_transpose2d.input(%x, %w, %b) {stride=2, groups=2}", 6),
    ("f32[N, 4, 3, 3, 3]", "f32[4, 6, 2, 2, 2]", "aten.conv_transpose3d.input(%x, %w, %b) {stride=2}", 6),
    ("f32[N, 5]", "f32[6, 5]", "aten.linear(%x, %w, %b)", 6),
    (
        "f32[N, 4, 6, 6]",
        "f32[6, 4, 3, 3]",
        "aten.convolution(%x, %w, %b) {stride=(1, 1), padding=(0, 0), dilation=(1, 1), transposed=false, "
        "output_padding=(0, 0), groups=1}",
        6,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("x", "w", "layer", "channels"), LAYERS)
def test_behind_a_layer(check, x: str, w: str, layer: str, channels: int) -> None:
    text = f"input %x: {x}\nparameter %w: {w}\nparameter %b: f32[{channels}]\n{declare(channels)}"
    text += f"%a = {layer}\n%r = {norm('a', 'false')}\nreturn %r"
    before = parse(text, statistics(channels))
    after = before.clone()
    result = FoldBatchNorm().run(after, PassContext())
    assert result.statistics.applied == INTO_PREVIOUS
    assert [node.op for node in after] == [before.nodes[0].op]
    check_same(before, after)


@pytest.mark.parametrize("layer", [0, 1, 2, 3, 7, 8])
def test_before_a_layer_without_padding(layer: int) -> None:
    x, w, call, _ = LAYERS[layer]
    call = call.replace(", padding=1", "").replace(", padding=2", "").replace("{padding=1}", "").replace("%x", "%a")
    channels = 5 if layer == 7 else 2 if layer == 3 else 4
    text = f"input %x: {x}\nparameter %w: {w}\nparameter %b: f32[6]\n{declare(channels)}"
    text += f"%a = {norm('x')}\n%r = {call}\nreturn %r"
    before = parse(text, statistics(channels))
    after = before.clone()
    assert FoldBatchNorm().run(after, PassContext()).statistics.applied == INTO_NEXT
    assert len(after) == 1
    check_same(before, after)


def test_before_a_padded_layer_only_without_shift() -> None:
    text = f"input %x: f32[N, 4, 6, 6]\nparameter %w: f32[6, 4, 3, 3]\n{declare(4)}"
    text += f"%a = {norm('x')}\n%r = aten.conv2d(%a, %w) {{padding=1}}\nreturn %r"
    shifted = parse(text, statistics(4))
    result = FoldBatchNorm().run(shifted, PassContext())
    assert not result.changed and "pads with zeros" in result.statistics.declined[0].reason
    before = parse(text, statistics(4, shift=False))
    after = before.clone()
    assert FoldBatchNorm().run(after, PassContext()).statistics.applied == INTO_NEXT
    check_same(before, after)


def test_before_a_transposed_layer_only_without_shift() -> None:
    text = f"input %x: f32[N, 4, 5, 5]\nparameter %w: f32[4, 3, 3, 3]\n{declare(4)}"
    text += f"%a = {norm('x')}\n%r = aten.conv_transpose2d.input(%a, %w) {{stride=2, groups=2}}\nreturn %r"
    assert not FoldBatchNorm().run(parse(text, statistics(4)), PassContext()).changed
    before = parse(text, statistics(4, shift=False))
    after = before.clone()
    assert FoldBatchNorm().run(after, PassContext()).statistics.applied == INTO_NEXT
    check_same(before, after)


def check_same(before, after) -> None:  # type: ignore[no-untyped-def]
    from graphopt.ir import verify
    from graphopt.rewrite import Contract
    from graphopt.testing import assert_equivalent

    verify(after)
    assert_equivalent(before, after, contract=Contract.REASSOCIATING)


@pytest.mark.parametrize("groups", [1, 2])
def test_against_torch_modules(groups: int) -> None:
    """The fold of conv–bn–conv_transpose–bn agrees with the modules themselves, in double precision."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=groups, bias=False),
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 6, 3, stride=2, groups=groups),
        nn.BatchNorm2d(6, affine=False),
    ).double()
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    model.eval()
    tensors = {name.replace(".", "_"): t for name, t in model.state_dict().items() if t.dim()}
    names = "\n".join(f"parameter %{n}: f64[{', '.join(map(str, t.shape))}]" for n, t in tensors.items())
    bn = "{training=false, momentum=0.1, eps=1e-05, cudnn_enabled=true}"
    text = f"""
        input %x: f64[N, 4, 7, 7]
        {names}
        %a = aten.conv2d(%x, %0_weight) {{groups={groups}}}
        %b = aten.batch_norm(%a, %1_weight, %1_bias, %1_running_mean, %1_running_var) {bn}
        %c = aten.conv_transpose2d.input(%b, %2_weight, %2_bias) {{stride=2, groups={groups}}}
        %d = aten.batch_norm(%c, none, none, %3_running_mean, %3_running_var) {bn}
        return %d"""
    graph = FoldBatchNorm()(parse(text, tensors))
    assert len(graph) == 2
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(Interpreter(graph).run(x)[0], model(x), rtol=1e-10, atol=1e-10)


def test_behind_a_flattened_linear_layer() -> None:
    text = f"input %x: f32[N, 7, 5]\nparameter %w: f32[6, 5]\n{declare(6)}%a = aten.linear(%x, %w)\n"
    text += f"%f = aten.flatten.using_ints(%a) {{start_dim=0, end_dim=1}}\n%r = {norm('f')}\nreturn %r"
    before = parse(text, statistics(6))
    after = before.clone()
    assert FoldBatchNorm().run(after, PassContext()).statistics.applied == {"batch-norm-into-flattened": 1}
    assert [node.name for node in after] == ["aten.linear", "aten.reshape"]
    check_same(before, after)


def test_new_bias_is_named_after_its_layer() -> None:
    text = f'input %x: f32[N, 4, 6, 6]\nparameter %w: f32[6, 4, 3, 3] names "conv.weight"\n{declare(6)}'
    text += f"%a = aten.conv2d(%x, %w)\n%r = {norm('a')}\nreturn %r"
    graph = FoldBatchNorm()(parse(text, statistics(6)))
    weight, bias = graph.nodes[0].operands[1:]
    assert weight.constant.names == ("conv.weight",) and bias.constant.names == ("conv.bias",)


def test_inference_variant_with_three_results() -> None:
    text = f"input %x: f32[N, 4, 6, 6]\nparameter %w: f32[6, 4, 3, 3]\n{declare(6)}"
    text += "%a = aten.conv2d(%x, %w)\n"
    text += "%r, %m, %v = aten._native_batch_norm_legit_no_training(%a, %gamma, %beta, %mean, %var)"
    text += " {momentum=0.1, eps=1e-05}\nreturn %r"
    before = parse(text, statistics(6))
    after = before.clone()
    assert FoldBatchNorm().run(after, PassContext()).statistics.applied == INTO_PREVIOUS
    assert len(after) == 1
    check_same(before, after)


CONV = f"input %x: f32[N, 4, 6, 6]\nparameter %w: f32[6, 4, 3, 3]\n{declare(6)}%a = aten.conv2d(%x, %w)\n"
DECLINED = [
    ("training", CONV + f"%r = {norm('a', 'true')}\nreturn %r", "in training", False),
    ("trained later", CONV + f"%r = {norm('a', chr(34) + 'follow' + chr(34))}\nreturn %r", "", True),
    ("other uses", CONV + f"%r = {norm('a')}\nreturn %r, %a", "", False),
    (
        "updated statistics",
        CONV + f'%r = {norm("a")}\n%m = aten.add.Scalar(%mean) {{other=1}}\nreturn %r\nupdate "mean" = %m',
        "no fixed constants",
        False,
    ),
    (
        "weight computed",
        CONV.replace("parameter %w", "input %w") + f"%r = {norm('a')}\nreturn %r",
        "no fixed constant",
        False,
    ),
    (
        "linear over sequences",
        f"input %x: f32[N, 6, 4]\nparameter %w: f32[6, 4]\n{declare(6)}"
        f"%a = aten.linear(%x, %w)\n%r = {norm('a')}\nreturn %r",
        "channels are not the layer's",
        False,
    ),
]


@pytest.mark.parametrize(("text", "reason", "trainable"), [d[1:] for d in DECLINED], ids=[d[0] for d in DECLINED])
def test_declined(text: str, reason: str, trainable: bool) -> None:
    graph = parse(text, statistics(6))
    result = FoldBatchNorm().run(graph, PassContext(trainable=trainable))
    assert not result.changed
    assert not reason or any(reason in d.reason for d in result.statistics.declined)


def test_weight_that_would_overflow_stays() -> None:
    tensors = statistics(6) | {"gamma": torch.full((6,), 1e38), "w": torch.full((6, 4, 3, 3), 1e3)}
    result = FoldBatchNorm().run(parse(CONV + f"%r = {norm('a')}\nreturn %r", tensors), PassContext())
    assert not result.changed and "not be finite" in result.statistics.declined[0].reason


def test_shared_weight_is_cloned() -> None:
    text = CONV + f"%r = {norm('a')}\n%s = aten.conv2d(%r, %u)\n%o = aten.conv2d(%x, %w)\nreturn %s, %o"
    before = parse(text.replace("parameter %w", "parameter %u: f32[4, 6, 1, 1]\nparameter %w"), statistics(6))
    after = before.clone()
    assert FoldBatchNorm().run(after, PassContext()).statistics.applied == INTO_PREVIOUS
    check_same(before, after)
    assert after.nodes[-1].operands[1].constant.tensor is before.constants["w"].constant.tensor


ARITHMETIC = [
    ("aten.mul.Tensor(%a, %c)", "f32[6, 1, 1]"),
    ("aten.mul.Tensor(%c, %a)", "f32[1, 6, 1, 1]"),
    ("aten.div.Tensor(%a, %c)", "f32[6, 1, 1]"),
    ("aten.add.Tensor(%a, %c)", "f32[6, 1, 1]"),
    ("aten.sub.Tensor(%a, %c)", "f32[6, 1, 1]"),
    ("aten.sub.Tensor(%c, %a)", "f32[6, 1, 1]"),
    ("aten.mul.Tensor(%a, %c)", "f32[]"),
    ("aten.mul.Scalar(%a) {other=2.5}", "f32[]"),
    ("aten.add.Scalar(%a) {other=2.5}", "f32[]"),
    ("aten.div.Scalar(%a) {other=3}", "f32[]"),
]


@pytest.mark.parametrize(("call", "constant"), ARITHMETIC)
@pytest.mark.parametrize("bias", ["", ", %b"])
def test_arithmetic_behind_a_layer(call: str, constant: str, bias: str) -> None:
    text = f"""
        input %x: f32[N, 4, 6, 6]
        parameter %w: f32[6, 4, 3, 3]
        parameter %b: f32[6]
        constant %c: {constant}
        %a = aten.conv2d(%x, %w{bias}) {{padding=1}}
        %r = {call}
        return %r"""
    before = parse(text)
    after = before.clone()
    assert FoldBatchNorm().run(after, PassContext()).statistics.applied == {"affine-into-previous": 1}
    assert len(after) == 1
    check_same(before, after)


def test_normalisation_of_pixels_before_the_first_layer() -> None:
    text = """
        input %x: f32[N, 3, 8, 8]
        parameter %w: f32[6, 3, 3, 3]
        constant %mean: f32[3, 1, 1] = (((0.48,),), ((0.45,),), ((0.4,),))
        constant %std: f32[3, 1, 1] = (((0.22,),), ((0.23,),), ((0.25,),))
        %a = aten.sub.Tensor(%x, %mean)
        %b = aten.div.Tensor(%a, %std)
        %r = aten.conv2d(%b, %w) {PAD}
        return %r"""
    before = parse(text.replace("{PAD}", ""))
    after = before.clone()
    assert FoldBatchNorm().run(after, PassContext()).statistics.applied == {"affine-into-next": 2}
    check_same(before, after)
    before = parse(text.replace("{PAD}", "{padding=1}"))
    after = before.clone()
    result = FoldBatchNorm().run(after, PassContext())
    assert result.statistics.applied == {"affine-into-next": 1} and len(after) == 2
    check_same(before, after)


def test_attention_scale_goes_into_the_projection(check) -> None:
    text = """
        input %x: f32[N, 7, 8]
        parameter %w: f32[8, 8]
        parameter %b: f32[8]
        %q = aten.linear(%x, %w, %b)
        %r = aten.mul.Scalar(%q) {other=0.25}
        return %r"""
    before = parse(text)
    after = FoldBatchNorm()(before)
    assert len(after) == 1
    torch.testing.assert_close(after.nodes[0].operands[1].constant.tensor, before.constants["w"].constant.tensor / 4)


def test_arithmetic_that_is_not_per_channel_stays(check) -> None:
    check(
        FoldBatchNorm(),
        """
        input %x: f32[N, 4, 6, 6]
        parameter %w: f32[6, 4, 1, 1]
        constant %c: f32[6, 6]
        %a = aten.conv2d(%x, %w)
        %r = aten.mul.Tensor(%a, %c)
        return %r""",
        declined="one finite number a channel",
    )
