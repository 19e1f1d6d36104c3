"""What the emitted graph looks like: names, sizes, nothing dead, origins, buffers."""

from __future__ import annotations

import onnx
import pytest
import torch

from graphopt.backends.onnx import emit_onnx
from graphopt.errors import EmissionError
from graphopt.ir import Graph
from graphopt.ops import parse
from tests.backends.onnx.oracle import assert_matches, checked, run_session, session


def op_types(graph: Graph) -> list[str]:
    return [node.op_type for node in checked(graph).graph.node]


def test_inputs_keep_their_names_and_dims_their_symbols() -> None:
    model = checked(
        parse("""
        input %input_ids: i64[batch, 2*length]
        %y = add.Scalar(%input_ids) {other=1}
        return %y""")
    )
    (given,), (made,) = model.graph.input, model.graph.output
    assert given.name == "input_ids" and made.name == "output_0"
    assert [d.dim_param for d in given.type.tensor_type.shape.dim] == ["batch", "2*length"]


def test_two_emissions_are_the_same_bytes() -> None:
    text = """
        input %x: f32[N, 4]
        parameter %w: f32[4, 4]
        %a = linear(%x, %w)
        %b = gelu(%a)
        %c = layer_norm(%b, none, none) {normalized_shape=(4,)}
        return %c, %a"""
    first, second = (checked(parse(text)).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_every_value_has_one_name_and_a_type() -> None:
    model = checked(
        parse("""
        input %x: f32[N, 4]
        %x_1 = relu(%x)
        %a = silu(%x_1)
        %b = silu(%a)
        return %b""")
    )
    names = [name for node in model.graph.node for name in node.output]
    assert len(names) == len(set(names))
    typed = {v.name for v in (*model.graph.value_info, *model.graph.output)}
    assert set(names) <= typed


def test_dead_operations_and_constants_are_left_out() -> None:
    model = checked(
        parse("""
        input %x: f32[N, 4]
        parameter %unused: f32[4]
        %dead = add.Tensor(%x, %unused)
        %deader = exp(%dead)
        %y = relu(%x)
        return %y""")
    )
    assert [n.op_type for n in model.graph.node] == ["Relu"]
    assert not model.graph.initializer


def test_an_input_a_constant_and_a_value_twice_are_outputs() -> None:
    graph = parse("""
        input %x: f32[3]
        parameter %w: f32[3]
        %y = relu(%x)
        return %x, %w, %y, %y""")
    x = torch.randn(3)
    model = checked(graph)
    assert [o.name for o in model.graph.output] == ["output_0", "output_1", "output_2", "output_3"]
    assert_matches(graph, [x], run_session(session(model), [x]))


def test_an_output_name_never_hides_an_input() -> None:
    model = checked(parse("input %output_0: f32[3]\n%y = relu(%output_0)\nreturn %y"))
    assert model.graph.output[0].name != "output_0"


def test_operations_carry_their_origin_and_the_model_its_producer() -> None:
    model = checked(
        parse("""
        input %x: f32[3]
        %y = relu(%x) @ "net.py":12 "layers.0" <- "fold"
        return %y""")
    )
    assert model.graph.node[0].doc_string == "net.py:12 layers.0 <- fold"
    assert model.producer_name == "graphopt"


def test_names_follow_the_paths_of_the_results() -> None:
    from graphopt.frontends import capture

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, object]:
            return {"logits": x + 1, "states": [x * 2, x * 3]}

    model = checked(capture(Net(), (torch.ones(2),)))
    assert [o.name for o in model.graph.output] == ["logits", "states.0", "states.1"]


def test_a_reshape_needs_no_runtime_sizes_where_dims_stay() -> None:
    assert op_types(parse("input %x: f32[B, S, 8]\n%y = view(%x) {size=(B, S, 2, 4)}\nreturn %y")) == ["Reshape"]
    assert op_types(parse("input %x: f32[B, S, 8]\n%y = view(%x) {size=(B*S, 8)}\nreturn %y")) == ["Reshape"]


def test_a_size_is_read_once() -> None:
    types = op_types(
        parse("""
        input %x: f32[B, S, 8]
        input %y: f32[8]
        %a = expand(%y) {size=(B, S, 8)}
        %b = ones() {size=(S, B)}
        %c = arange() {end=S}
        %d = expand(%c) {size=(B, S)}
        return %a, %b, %d""")
    )
    assert types.count("Shape") <= 3


@pytest.mark.parametrize(
    "size", ["N//3", "(N + 1)//2*4", "max(N - 5, 0)", "min(N, 4) + 1", "N*N - N + 1", "(3 - N)//2 + 10", "N % 4 + 1"]
)
def test_sizes_are_computed_as_the_expression_says(size: str) -> None:
    graph = parse(f"input %x: f32[N]\n%y = zeros() {{size=({size}, 2)}}\nreturn %y")
    loaded = session(checked(graph))
    for n in (0, 1, 5, 8):
        x = torch.zeros(n)
        assert_matches(graph, [x], run_session(loaded, [x]))


def test_a_symbol_is_solved_from_a_dim_that_contains_it() -> None:
    graph = parse("input %x: f32[2*N + 1]\n%y = ones() {size=(N, 3)}\nreturn %y")
    x = torch.zeros(9)
    assert_matches(graph, [x], run_session(session(checked(graph)), [x]))


def test_a_symbol_that_no_input_tells_is_an_error() -> None:
    with pytest.raises(EmissionError, match="the size 'K' cannot be read off"):
        emit_onnx(parse("input %x: f32[3]\n%y = ones() {size=(K,)}\nreturn %y"))


def test_empty_batches_run() -> None:
    graph = parse("""
        input %x: f32[B, S, 8]
        parameter %w: f32[4, 8]
        %y = linear(%x, %w)
        %z = view(%y) {size=(B, S*4)}
        return %z""")
    loaded = session(checked(graph))
    for shape in ((0, 3, 8), (2, 0, 8), (0, 0, 8), (2, 3, 8)):
        x = torch.randn(shape)
        assert_matches(graph, [x], run_session(loaded, [x]))


def test_mutated_buffers_are_inputs_and_outputs() -> None:
    model = checked(
        parse("""
        input %x: f32[3]
        buffer %total: f32[3] = (1.0, 2.0, 3.0)
        %sum = add.Tensor(%total, %x)
        %y = relu(%sum)
        return %y
        update "total" = %sum""")
    )
    assert [i.name for i in model.graph.input] == ["x", "total"]
    assert [o.name for o in model.graph.output] == ["output_0", "total_updated"]


def test_a_weight_used_twice_is_stored_once() -> None:
    model = checked(
        parse("""
        input %ids: i64[N, 3]
        parameter %w: f32[10, 4]
        %e = embedding(%w, %ids)
        %y = linear(%e, %w)
        return %y""")
    )
    assert [t.name for t in model.graph.initializer] == ["w"]


def test_linear_is_one_gemm_or_a_product_by_the_transposed_weight() -> None:
    head = "parameter %w: f32[4, 8]\nparameter %b: f32[4]\n"
    assert op_types(parse(f"input %x: f32[N, 8]\n{head}%y = linear(%x, %w, %b)\nreturn %y")) == ["Gemm"]
    assert op_types(parse(f"input %x: f32[N, 3, 8]\n{head}%y = linear(%x, %w, %b)\nreturn %y")) == ["MatMul", "Add"]


def test_the_weights_of_a_recurrent_layer_are_packed_ahead() -> None:
    types = op_types(
        parse(
            """
        input %x: f32[5, N, 3]
        input %h: f32[1, N, 4]
        parameter %wi: f32[12, 3]
        parameter %wh: f32[12, 4]
        parameter %bi: f32[12]
        parameter %bh: f32[12]
        %y: f32[5, N, 4], %l: f32[1, N, 4] = gru.input(%x, %h, %wi, %wh, %bi, %bh) {has_biases=true, num_layers=1, \
dropout=0.0, train=false, bidirectional=false, batch_first=false}
        return %y""".replace("\\\n", "")
        )
    )
    assert types == ["GRU", "Squeeze"]


def test_no_operation_for_what_changes_nothing() -> None:
    types = op_types(
        parse("""
        input %x: f32[N, 3]
        %a = dropout(%x) {p=0.5, train="follow"}
        %b = contiguous(%a)
        %c = view(%b) {size=(N, 3)}
        %d = to.dtype(%c) {dtype=f32}
        %e = expand(%d) {size=(N, 3)}
        %y = relu(%e)
        return %y""")
    )
    assert types == ["Relu"]


def test_one_causal_mask_serves_all_layers() -> None:
    types = op_types(
        parse("""
        input %x: f32[B, 2, S, 8]
        %a = scaled_dot_product_attention(%x, %x, %x, none) {is_causal=true}
        %b = scaled_dot_product_attention(%a, %a, %a, none) {is_causal=true}
        return %b""")
    )
    assert types.count("Where") == 1 and types.count("Range") <= 2


@pytest.mark.parametrize("opset", [18, 19, 20, 21, 22, 23])
def test_the_model_has_the_chosen_opset(opset: int) -> None:
    graph = parse("""
        input %x: f32[N, 3, 8, 8]
        parameter %w: f32[4, 3, 3, 3]
        %c = conv2d(%x, %w)
        %g = gelu(%c)
        %t = gelu(%g) {approximate="tanh"}
        %p = max_pool2d(%t) {kernel_size=(2, 2)}
        %q = pad(%p) {pad=(1, 1)}
        %y = upsample_bilinear2d(%q) {output_size=(4, 4), align_corners=false}
        %n = layer_norm(%y, none, none) {normalized_shape=(4,)}
        return %n""")
    model = checked(graph, opset=opset)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": opset}
    x = torch.randn(2, 3, 8, 8)
    assert_matches(graph, [x], run_session(session(model), [x]), scale=20)


def test_an_unknown_opset_is_refused() -> None:
    with pytest.raises(EmissionError, match="opset 7 is not supported"):
        emit_onnx(parse("input %x: f32[3]\nreturn %x"), opset=7)


def test_weights_of_every_type_arrive_bit_by_bit() -> None:
    for dtype in (
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.int8,
        torch.bool,
        torch.uint16,
    ):
        data = torch.randint(0, 2, (2, 3)).to(dtype)
        from graphopt.ir import Constant, TensorType, from_torch

        graph = Graph()
        weight = graph.add_constant("w", TensorType(from_torch(dtype), (2, 3)), Constant(data))
        graph.set_outputs([weight])
        (stored,) = checked(graph).graph.initializer
        assert stored.raw_data == data.view(torch.uint8).numpy().tobytes()
        assert stored.data_type == onnx.helper.np_dtype_to_tensor_dtype(onnx.numpy_helper.to_array(stored).dtype)


def test_a_transposed_weight_is_stored_in_row_major_order() -> None:
    from graphopt.ir import Constant, DType, TensorType

    data = torch.arange(6.0).reshape(2, 3).t()
    graph = Graph()
    graph.set_outputs([graph.add_constant("w", TensorType(DType.F32, (3, 2)), Constant(data))])
    torch.testing.assert_close(
        torch.from_numpy(onnx.numpy_helper.to_array(checked(graph).graph.initializer[0]).copy()), data
    )


def test_the_error_names_the_node_its_origin_and_a_remedy() -> None:
    graph = parse("""
        input %x: f32[3]
        %y = special_i0(%x) @ "net.py":7 "head"
        return %y""")
    with pytest.raises(EmissionError) as caught:
        emit_onnx(graph)
    message = str(caught.value)
    assert "aten.special_i0 cannot be expressed in ONNX" in message
    assert "net.py:7 head" in message and "lowers('aten.special_i0')" in message


def test_celu_in_double_precision_is_written_by_parts() -> None:
    """ONNX has Celu for single precision alone."""
    model = checked(parse("input %x: f64[2]\n%y = celu(%x) {alpha=2.0}\nreturn %y"))
    assert [node.op_type for node in model.graph.node] == ["Div", "Elu", "Mul"]
