from __future__ import annotations

from graphopt.passes.dead_code import DeadCode


def test_unused_chain_and_constant(check) -> None:
    check(
        DeadCode(),
        """
        input %x: f32[N, 4]
        constant %w: f32[4] = (1.0, 2.0, 3.0, 4.0)
        %a = aten.relu(%x)
        %b = aten.mul.Tensor(%a, %w)
        %c = aten.exp(%b)
        return %a""",
        """
        input %x: f32[N, 4]
        %a = aten.relu(%x)
        return %a""",
        applied={"drop-constant": 1},
    )
    assert check.result.statistics.erased == 2


def test_effect_stays(check) -> None:
    check(
        DeadCode(),
        """
        input %x: f32[N, 4]
        %a = aten.add_.Tensor(%x, %x)
        return %x""",
        numeric=False,
    )


def test_updated_buffer_stays(check) -> None:
    check(
        DeadCode(),
        """
        input %x: f32[4]
        buffer %state: f32[4] = (0.0, 0.0, 0.0, 0.0)
        %y = aten.relu(%x)
        return %y
        update "state" = %y""",
    )


def test_unused_random_is_dropped(check) -> None:
    check(
        DeadCode(),
        """
        input %x: f32[4]
        %r = aten.rand_like(%x)
        return %x""",
        """
        input %x: f32[4]
        return %x""",
    )


def test_cond_loses_result_and_operand(check) -> None:
    check(
        DeadCode(),
        """
        input %p: bool[]
        input %x: f32[4]
        input %y: f32[4]
        %a, %b = higher_order.cond(%p, %x, %y) [
        graph then {
          input %x: f32[4]
          input %y: f32[4]
          %u = aten.relu(%x)
          %v = aten.exp(%y)
          return %u, %v
        }
        graph else {
          input %x: f32[4]
          input %y: f32[4]
          %u = aten.neg(%x)
          return %u, %y
        }
        ]
        return %a""",
        """
        input %p: bool[]
        input %x: f32[4]
        input %y: f32[4]
        %a = higher_order.cond(%p, %x) [
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
        ]
        return %a""",
        applied={"drop-result": 1, "drop-operand": 1},
    )
