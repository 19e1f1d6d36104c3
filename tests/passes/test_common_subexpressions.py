from __future__ import annotations

from graphopt.passes.common_subexpressions import CommonSubexpressions
from graphopt.passmanager import PassContext

NAME = "common-subexpressions"


def test_chain_collapses(check) -> None:
    check(
        CommonSubexpressions(),
        """
        input %x: f32[N, 4]
        input %y: f32[N, 4]
        %a = aten.mul.Tensor(%x, %y)
        %b = aten.mul.Tensor(%y, %x)
        %c = aten.exp(%a)
        %d = aten.exp(%b)
        %e = aten.sub.Tensor(%c, %d)
        return %e""",
        """
        input %x: f32[N, 4]
        input %y: f32[N, 4]
        %a = aten.mul.Tensor(%x, %y)
        %c = aten.exp(%a)
        %e = aten.sub.Tensor(%c, %c)
        return %e""",
        applied={NAME: 2},
    )


def test_order_and_attributes_matter(check) -> None:
    check(
        CommonSubexpressions(),
        """
        input %x: f32[4]
        input %y: f32[4]
        %a = aten.sub.Tensor(%x, %y)
        %b = aten.sub.Tensor(%y, %x)
        %c = aten.add.Tensor(%x, %y) {alpha=2}
        %d = aten.add.Tensor(%y, %x) {alpha=2}
        %e = aten.mul.Scalar(%x) {other=1}
        %f = aten.mul.Scalar(%x) {other=1.0}
        return %a, %b, %c, %d, %e, %f""",
    )


def test_random_is_not_merged(check) -> None:
    check(
        CommonSubexpressions(),
        """
        input %x: f32[4]
        %a = aten.rand_like(%x)
        %b = aten.rand_like(%x)
        return %a, %b""",
        numeric=False,
    )


def test_training_mode(check) -> None:
    text = """
        input %x: f32[4]
        %a = aten.dropout(%x) {p=0.5, train="follow"}
        %b = aten.dropout(%x) {p=0.5, train="follow"}
        return %a, %b"""
    check(CommonSubexpressions(), text, context=PassContext(trainable=True))
    check(
        CommonSubexpressions(),
        text,
        """
        input %x: f32[4]
        %a = aten.dropout(%x) {p=0.5, train="follow"}
        return %a, %a""",
        applied={NAME: 1},
    )


def test_multiple_results(check) -> None:
    check(
        CommonSubexpressions(),
        """
        input %x: f32[4, 6]
        %a, %b = aten.split.Tensor(%x) {split_size=3, dim=1}
        %c, %d = aten.split.Tensor(%x) {split_size=3, dim=1}
        %e = aten.add.Tensor(%a, %d)
        return %e, %c, %b""",
        """
        input %x: f32[4, 6]
        %a, %b = aten.split.Tensor(%x) {split_size=3, dim=1}
        %e = aten.add.Tensor(%a, %b)
        return %e, %a, %b""",
        applied={NAME: 1},
    )


def test_data_dependent_sizes_are_not_confused(check) -> None:
    check(
        CommonSubexpressions(),
        """
        input %x: f32[4]
        %a: i64[u0, 1] = aten.nonzero(%x)
        %b: i64[u1, 1] = aten.nonzero(%x)
        return %a, %b""",
    )


def test_equal_regions_merge(check) -> None:
    region = """[
        graph then {
          input %x: f32[4]
          %u = aten.relu(%x)
          return %u
        }
        graph else {
          input %x: f32[4]
          %u = aten.neg(%x)
          return %u
        }
        ]"""
    check(
        CommonSubexpressions(),
        f"""
        input %p: bool[]
        input %x: f32[4]
        %a = higher_order.cond(%p, %x) {region}
        %b = higher_order.cond(%p, %x) {region}
        %c = higher_order.cond(%p, %x) {region.replace("neg", "abs")}
        return %a, %b, %c""",
        f"""
        input %p: bool[]
        input %x: f32[4]
        %a = higher_order.cond(%p, %x) {region}
        %c = higher_order.cond(%p, %x) {region.replace("neg", "abs")}
        return %a, %a, %c""",
        applied={NAME: 1},
    )
