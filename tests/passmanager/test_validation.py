"""Numeric validation: what holds, what does not, what it costs, and what it leaves alone."""

from __future__ import annotations

import math

import pytest
import torch

from graphopt.errors import GraphOptError, ValidationError
from graphopt.ir import Graph
from graphopt.ops import parse
from graphopt.passmanager import Budget, PassContext, PassManager, Status, as_pass, pass_
from graphopt.passmanager.decorators import rewrite
from graphopt.passmanager.validation import Mismatch, Validator
from graphopt.rewrite import Algebra, Contract, aten, var
from tests.passmanager.models import context, halve_weights, mlp, nothing, relu_once, split_linear

x, y, z = var("x"), var("y"), var("z")


def check(before: Graph, after: Graph, contract: Contract, *inputs: torch.Tensor, rounded: bool = False) -> None:
    Validator(before, [list(inputs)]).check(after, contract, rounded=rounded)


def broken(before: str, after: str, contract: Contract, *inputs: torch.Tensor, rounded: bool = False) -> str:
    with pytest.raises(Mismatch) as caught:
        check(parse(before), parse(after), contract, *inputs, rounded=rounded)
    return str(caught.value)


def unary(op: str, *, attributes: str = "", dtype: str = "f32") -> str:
    return f"input %x: {dtype}[8]\n%y = aten.{op}(%x){attributes}\nreturn %y"


RAMP = torch.linspace(-2, 2, 8)


class TestContracts:
    def test_bitwise_tells_the_zeros_apart_and_value_exact_does_not(self) -> None:
        before, after = parse(unary("neg")), parse(unary("mul.Scalar", attributes=" {other=-1.0}"))
        check(before, after, Contract.BITWISE, torch.tensor([0.0, -0.0, 1, 2, 3, 4, 5, 6]))
        plus = parse("input %x: f32[8]\n%n = aten.neg(%x)\n%y = aten.add.Scalar(%n) {other=0.0}\nreturn %y")
        zeros = torch.tensor([0.0, -0.0, 1, 2, 3, 4, 5, 6])
        check(plus, before, Contract.VALUE_EXACT, zeros)
        with pytest.raises(Mismatch, match=r"1 of 8 elements differ, as 0.0 → -0.0 at \[0\]"):
            check(plus, before, Contract.BITWISE, zeros)

    def test_nan_payloads_are_equal_values(self) -> None:
        before = parse("input %x: f32[8]\n%y = aten.sub.Tensor(%x, %x)\nreturn %y")
        after = parse("input %x: f32[8]\n%a = aten.neg(%x)\n%y = aten.add.Tensor(%x, %a)\nreturn %y")
        check(before, after, Contract.VALUE_EXACT, torch.full((8,), math.inf))

    def test_reassociation_is_allowed_to_round_otherwise(self) -> None:
        before = parse(
            "input %x: f32[64]\ninput %y: f32[64]\n%a = aten.add.Tensor(%x, %y)\n%b = aten.sum(%a)\nreturn %b"
        )
        after = parse(
            "input %x: f32[64]\ninput %y: f32[64]\n%a = aten.sum(%x)\n%c = aten.sum(%y)\n"
            "%b = aten.add.Tensor(%a, %c)\nreturn %b"
        )
        generator = torch.Generator().manual_seed(0)
        inputs = [torch.randn(64, generator=generator) * 100 for _ in range(2)]
        check(before, after, Contract.REASSOCIATING, *inputs)
        with pytest.raises(Mismatch):
            check(before, after, Contract.VALUE_EXACT, *inputs)

    def test_an_error_that_only_float64_shows(self) -> None:
        # In bfloat16 a factor of 1.001 rounds to 1: the working precision is blind to it.
        before, after = (
            unary("relu", dtype="bf16"),
            ("input %x: bf16[8]\n%r = aten.relu(%x)\n%y = aten.mul.Scalar(%r) {other=1.001}\nreturn %y"),
        )
        message = broken(before, after, Contract.REASSOCIATING, RAMP.bfloat16())
        assert "in float64 the results differ" in message

    def test_stored_constants_may_be_rounded_but_not_wrong(self) -> None:
        before = (
            "input %x: f32[8]\n%a = aten.mul.Scalar(%x) {other=0.1}\n%y = aten.mul.Scalar(%a) {other=0.3}\nreturn %y"
        )
        after = "input %x: f32[8]\nconstant %c: f32[] = VALUE\n%y = aten.mul.Tensor(%x, %c)\nreturn %y"
        good, bad = (after.replace("VALUE", v) for v in ("0.03", "0.0300001"))
        check(parse(before), parse(good), Contract.REASSOCIATING, RAMP, rounded=True)
        assert "in float64 the results differ" in broken(before, good, Contract.REASSOCIATING, RAMP, rounded=False)
        broken(before, bad, Contract.REASSOCIATING, RAMP, rounded=True)

    @pytest.mark.parametrize("contract", [Contract.REASSOCIATING, Contract.LOSSY])
    def test_nan_must_stay_where_it_was(self, contract: Contract) -> None:
        before, after = unary("relu"), "input %x: f32[8]\n%y = aten.log(%x)\nreturn %y"
        assert "NaN or infinite" in broken(before, after, contract, RAMP)

    def test_overflow_may_be_repaired(self) -> None:
        before = parse(
            "input %x: f32[8]\n%a = aten.mul.Scalar(%x) {other=1e30}\n%b = aten.mul.Scalar(%a) {other=1e30}\n"
            "%y = aten.mul.Scalar(%b) {other=1e-60}\nreturn %y"
        )
        after = parse("input %x: f32[8]\n%y = aten.mul.Scalar(%x) {other=1.0}\nreturn %y")
        check(before, after, Contract.REASSOCIATING, RAMP)

    @pytest.mark.parametrize("dtype", ["i64", "i32", "bool"])
    def test_integers_are_exact_even_for_reassociating_passes(self, dtype: str) -> None:
        before, after = (
            unary("eq.Scalar", attributes=" {other=1}", dtype=dtype),
            unary("ne.Scalar", attributes=" {other=1}", dtype=dtype),
        )
        values = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1]).to(
            {"i64": torch.int64, "i32": torch.int32, "bool": torch.bool}[dtype]
        )
        assert "8 of 8 elements differ" in broken(before, after, Contract.REASSOCIATING, values)

    def test_shapes_and_dtypes_count(self) -> None:
        assert "had shape [8], has [8, 1]" in broken(
            unary("relu"),
            "input %x: f32[8]\n%r = aten.relu(%x)\n%y = aten.unsqueeze(%r) {dim=1}\nreturn %y",
            Contract.BITWISE,
            RAMP,
        )
        assert "was torch.float32, is torch.float64" in broken(
            unary("relu"),
            "input %x: f32[8]\n%r = aten.relu(%x)\n%y = aten.to.dtype(%r) {dtype=f64}\nreturn %y",
            Contract.LOSSY,
            RAMP,
        )

    def test_buffer_updates_are_outputs(self) -> None:
        text = (
            "input %x: f32[8]\nbuffer %n: f32[8]\n%y = aten.relu(%x)\n%m = aten.add.Tensor(%n, {})\n"
            'return %y\nupdate "n" = %m'
        )
        assert "output 1" in broken(text.format("%x"), text.format("%y"), Contract.BITWISE, RAMP)

    def test_complex_outputs(self) -> None:
        before = parse("input %x: f32[8]\n%y = aten.fft_rfft(%x)\nreturn %y")
        after = parse(
            "input %x: f32[8]\n%a = aten.mul.Scalar(%x) {other=2.0}\n%b = aten.fft_rfft(%a)\n"
            "%y = aten.mul.Scalar(%b) {other=0.5}\nreturn %y"
        )
        check(before, after, Contract.REASSOCIATING, RAMP)
        wrong = parse("input %x: f32[8]\n%a = aten.fft_rfft(%x)\n%y = aten.conj(%a)\nreturn %y")
        with pytest.raises(Mismatch):
            check(before, wrong, Contract.REASSOCIATING, RAMP)

    def test_the_total_of_nothing_is_nothing(self) -> None:
        before = parse("input %x: f32[0, 4]\n%y = aten.relu(%x)\nreturn %y")
        check(before, before.clone(), Contract.REASSOCIATING, torch.empty(0, 4))


class TestTies:
    """Two equal scores by different roundings: which index wins is a matter of the last bit."""

    @staticmethod
    def graph(*factors: float) -> Graph:
        """Is 0.3·x or relu(x·factors) larger? A tie where x > 0 and the factors are 0.3 together."""
        lines = ["input %x: f32[512]", "%s = aten.mul.Scalar(%x) {other=0.3}"]
        lines += [f"%b{i + 1} = aten.mul.Scalar(%{f'b{i}' if i else 'x'}) {{other={f}}}" for i, f in enumerate(factors)]
        lines += [f"%r = aten.relu(%b{len(factors)})", "%c = aten.stack(%s, %r) {dim=1}"]
        return parse("\n".join([*lines, "%y = aten.argmax(%c) {dim=1}", "return %y"]))

    def validator(self) -> Validator:
        sample = torch.rand(512, generator=torch.Generator().manual_seed(1)) - 0.5
        return Validator(self.graph(3.0, 0.1), [[sample]])

    def test_a_tie_that_flips_is_excused(self) -> None:
        outputs = self.validator().check(self.graph(0.1, 3.0), Contract.REASSOCIATING, rounded=False)
        assert any("by rounding alone" in excuse for excuse in outputs.excuses)

    def test_a_difference_where_there_is_no_tie_is_not(self) -> None:
        wrong = parse(str(self.graph(3.0, 0.1)).replace("argmax", "argmin"))
        with pytest.raises(Mismatch, match="elements differ"):
            self.validator().check(wrong, Contract.REASSOCIATING, rounded=False)

    def test_an_exact_pass_has_no_excuse(self) -> None:
        with pytest.raises(Mismatch):
            self.validator().check(self.graph(0.1, 3.0), Contract.BITWISE, rounded=False)

    @staticmethod
    def router(first: float, second: float, expert: float) -> Graph:
        return parse(
            f"""input %x: f32[512]
            %p1 = aten.mul.Scalar(%x) {{other={first}}}
            %p2 = aten.mul.Scalar(%p1) {{other={second}}}
            %p = aten.relu(%p2)
            %q = aten.mul.Scalar(%x) {{other=0.3}}
            %m = aten.gt.Tensor(%p, %q)
            %e = aten.mul.Scalar(%x) {{other={expert}}}
            %f = aten.neg(%x)
            %y = aten.where.self(%m, %e, %f)
            return %y"""
        )

    def test_floating_point_outputs_jump_too(self) -> None:
        """A near tie sends an element to the other expert; an expert that computes something else is a bug."""
        sample = torch.rand(512, generator=torch.Generator().manual_seed(1)) - 0.5
        validator = Validator(self.router(3.0, 0.1, 2.0), [[sample]])
        outputs = validator.check(self.router(0.1, 3.0, 2.0), Contract.REASSOCIATING, rounded=False)
        assert any("by rounding alone" in excuse for excuse in outputs.excuses)
        with pytest.raises(Mismatch):
            validator.check(self.router(3.0, 0.1, 2.5), Contract.REASSOCIATING, rounded=False)


class TestCost:
    """For k passes that changed the graph and s sample sets: at most 1.2·(k + 1)·s runs."""

    def runs(self, passes: list, samples: int = 1) -> tuple[int, int, int]:
        made = PassContext(samples=[context(5 + i, i).samples[0] for i in range(samples)])
        _, report = PassManager(passes).run(mlp(), made)
        return report.model_runs, len(report.kept), report.samples

    def test_nothing_runs_if_nothing_changed(self) -> None:
        assert self.runs([nothing, nothing])[0] == 0

    def test_exact_passes_cost_one_run_on_each_set(self) -> None:
        assert self.runs([nothing, relu_once, nothing]) == (4, 1, 2)

    def test_reassociating_passes_need_no_referee_where_they_move_by_a_few_ulp(self) -> None:
        assert self.runs([split_linear]) == (4, 1, 2)
        assert self.runs([split_linear, relu_once]) == (6, 2, 2)

    @pytest.mark.parametrize("samples", [1, 2, 3])
    def test_the_bound(self, samples: int) -> None:
        @rewrite(aten.layer_norm(x, ...), contract=Contract.REASSOCIATING)
        def rebuild_norm(x, match):
            if "rebuild-norm" in match.root.location.rules:
                return None
            return aten.layer_norm(x, (16,))

        passes = [relu_once, split_linear, rebuild_norm]
        runs, kept, sets = self.runs(passes, samples)
        assert kept == 3 and sets == samples + 1
        assert runs <= 1.2 * (kept + 1) * sets

    def test_validation_at_the_end_runs_twice_in_all(self) -> None:
        _, report = PassManager([relu_once, split_linear], validate="end").run(mlp(), context())
        assert report.model_runs == 4 and report.validate == "end" and report.total_error is not None

    def test_validation_off_runs_nothing(self) -> None:
        _, report = PassManager([relu_once, split_linear], validate=False).run(mlp(), context())
        assert report.model_runs == 0 and report.validate == "off" and len(report.kept) == 2


class TestEnd:
    @pytest.mark.parametrize("policy", ["rollback", "raise"])
    def test_a_wrong_pass_is_found_by_a_second_run(self, policy: str) -> None:
        @rewrite(aten.layer_norm(x, ...), contract=Contract.REASSOCIATING)
        def drop_norm(x):
            return x

        manager = PassManager([relu_once, drop_norm, split_linear], validate="end", on_failure=policy)
        if policy == "raise":
            with pytest.raises(ValidationError, match="drop-norm"):
                manager.run(mlp(), context())
            return
        _, report = manager.run(mlp(), context())
        assert [r.status for r in report.records] == [Status.KEPT, Status.ROLLED_BACK, Status.KEPT]
        assert any("the numbers were wrong at the end" in note for note in report.notes)


class TestLossy:
    def test_without_a_budget_the_loss_is_reported_and_kept(self) -> None:
        _, report = PassManager(halve_weights).run(mlp(), context())
        record = report.record("halve-weights")
        assert record.status is Status.KEPT and record.error is not None
        assert 1e-4 < record.error.relative_rms < 0.1 and 20 < record.error.sqnr < 80
        assert report.total_error == record.error

    def test_the_error_is_what_it_says(self) -> None:
        graph = mlp()
        result, report = PassManager(halve_weights).run(graph, context())
        from graphopt.analysis import run_graph

        (sample,) = context().samples
        want = run_graph(graph, *sample, float64=True)[0]
        got = run_graph(result, *sample)[0].double()
        assert report.total_error is not None
        assert report.total_error.max_abs == pytest.approx((got - want).abs().max().item(), rel=1e-3)
        assert report.total_error.relative_rms == pytest.approx(((got - want).norm() / want.norm()).item(), rel=1e-3)

    def test_a_budget_holds_the_sum_of_losses(self) -> None:
        rough, fine = halve_weights.with_options(bits=2), halve_weights.with_options(bits=6)
        _, report = PassManager([fine, rough, fine], budget=0.02).run(mlp(), context())
        assert [r.status for r in report.records] == [Status.KEPT, Status.ROLLED_BACK, Status.KEPT]
        assert "the budget is 0.02" in report.records[1].reason
        assert report.total_error is not None and report.total_error.relative_rms <= 0.02

    @pytest.mark.parametrize("budget", [Budget(max_abs=1e-9), Budget(max_rel=1e-9), Budget(relative_rms=0.0), 0.0])
    def test_every_kind_of_budget(self, budget: Budget | float) -> None:
        _, report = PassManager(halve_weights, budget=budget).run(mlp(), context())
        assert report.records[0].status is Status.ROLLED_BACK

    def test_a_budget_must_be_a_number(self) -> None:
        with pytest.raises(GraphOptError, match="at least 0"):
            PassManager(nothing, budget=-1.0)

    def test_lossless_passes_after_a_lossy_one_are_held_against_its_result(self) -> None:
        passes = [halve_weights, split_linear, relu_once]
        _, report = PassManager(passes, budget=0.5).run(mlp(), context())
        assert all(r.status is Status.KEPT for r in report.records)

        @rewrite(aten.layer_norm(x, ...), contract=Contract.REASSOCIATING)
        def shrink(x, match):
            return None if match.root.attr("eps") != 1e-5 else aten.layer_norm(x, (16,), None, None, 1.5e-5)

        _, report = PassManager([halve_weights, shrink]).run(mlp(), context())
        assert [r.status for r in report.records] == [Status.KEPT, Status.ROLLED_BACK]

    def test_integer_outputs_count_as_a_share(self) -> None:
        graph = parse("input %x: f32[64]\n%y = aten.gt.Scalar(%x) {other=0.0}\nreturn %y")

        @rewrite(aten.gt.Scalar(x, 0.0), contract=Contract.LOSSY)
        def shift(x):
            return aten.gt.Scalar(x, 0.5)

        samples = PassContext(samples=[[torch.linspace(-1, 1, 64)]])
        _, report = PassManager(shift).run(graph, samples)
        assert report.total_error is not None
        assert (report.total_error.mismatches, report.total_error.elements) == (16, 64)
        assert PassManager(shift, budget=0.2).run(graph, samples).report.records[0].status is Status.ROLLED_BACK
        assert PassManager(shift, budget=0.3).run(graph, samples).report.records[0].status is Status.KEPT

    def test_a_budget_needs_numbers(self) -> None:
        with pytest.raises(GraphOptError, match="held by validation"):
            PassManager(halve_weights, budget=0.1, validate=False)
        graph = parse("input %x: i64[4]\nparameter %w: f32[4]\n%y = aten.add.Tensor(%x, %w)\nreturn %y")
        _, report = PassManager(halve_weights, budget=0.1).run(graph)
        assert report.records[0].status is Status.ROLLED_BACK
        assert "cannot be held to a budget without sample inputs" in report.records[0].reason


class TestRandom:
    DROPOUT = (
        "input %x: f32[64]\n%a = aten.relu(%x)\n%b = aten.relu(%a)\n"
        "%y = aten.dropout(%b) {p=0.5, train=TRAIN}\nreturn %b, %y"
    )

    def test_outputs_that_are_random_are_declared_unvalidated_and_the_others_are_not(self) -> None:
        graph = parse(self.DROPOUT.replace("TRAIN", "true"))
        state = torch.random.get_rng_state()
        _, report = PassManager(relu_once).run(graph)
        assert report.records[0].status is Status.KEPT
        assert "outputs [1] depend on random numbers and are not validated" in report.notes
        assert torch.equal(torch.random.get_rng_state(), state)

        @rewrite(aten.relu(x), contract=Contract.BITWISE)
        def wrong(x):
            return aten.tanh(x)

        _, report = PassManager(wrong).run(graph)
        assert report.records[0].status is Status.ROLLED_BACK

    def test_a_random_operator_that_is_switched_off_is_validated(self) -> None:
        graph = parse(self.DROPOUT.replace("TRAIN", "false"))

        @rewrite(aten.dropout(x, ...), contract=Contract.BITWISE)
        def drop_dropout(x):
            return aten.neg(x)

        _, report = PassManager(drop_dropout).run(graph)
        assert report.records[0].status is Status.ROLLED_BACK
        assert not any("random" in note for note in report.notes)


class TestSamples:
    def test_made_up_inputs_say_so(self) -> None:
        _, report = PassManager(relu_once).run(mlp())
        assert any("made-up inputs" in note for note in report.notes) and report.samples == 2

    def test_integer_inputs_are_never_made_up(self) -> None:
        graph = parse("input %x: i64[N]\n%y = aten.neg(%x)\n%z = aten.neg(%y)\nreturn %z")
        _, report = PassManager(nothing).run(graph)
        assert report.validate == "off" and any("give samples" in note for note in report.notes)

    @pytest.mark.parametrize("validate", ["each", "end"])
    def test_made_up_inputs_that_the_graph_refuses_are_no_error(self, validate: str) -> None:
        # A random matrix has no Cholesky factor.
        graph = parse(
            "input %x: f32[4, 4]\n%a = aten.relu(%x)\n%b = aten.relu(%a)\n%y = aten.linalg_cholesky(%x)\nreturn %b, %y"
        )
        _, report = PassManager(relu_once, validate=validate).run(graph)  # type: ignore[arg-type]
        assert report.records[0].status is Status.KEPT and report.validate == "off"
        assert any("inputs could not be made up" in note for note in report.notes)

    def test_samples_that_do_not_fit_are_the_callers_error(self) -> None:
        wrong = PassContext(samples=[[torch.randn(5, 9)]])
        with pytest.raises(GraphOptError, match="size 9"):
            PassManager(relu_once).run(mlp(), wrong)

    def test_samples_are_left_alone(self) -> None:
        made = context()
        before = made.samples[0][0].clone()
        PassManager([relu_once, split_linear]).run(mlp(), made)
        assert torch.equal(made.samples[0][0], before)

    def test_a_graph_without_inputs(self) -> None:
        graph = parse("constant %c: f32[4] = (1.0, -2.0, 3.0, 0.0)\n%a = aten.relu(%c)\n%b = aten.relu(%a)\nreturn %b")
        _, report = PassManager(relu_once).run(graph)
        assert report.records[0].status is Status.KEPT


def test_promises_are_those_of_the_rules_that_fired() -> None:
    exact = Algebra("mul-one", aten.mul(x, 1), x, Contract.BITWISE)
    loose = Algebra("exp-log", aten.exp(aten.log(x)), x, Contract.REASSOCIATING)
    graph = parse("input %x: f32[8]\n%y = aten.mul.Scalar(%x) {other=1}\nreturn %y")
    _, report = PassManager(as_pass([exact, loose])).run(graph)
    assert report.records[0].promise == "bitwise"


def test_an_exact_pass_may_not_hide_behind_a_tolerance() -> None:
    @pass_(contract=Contract.BITWISE)
    def nudge(graph, rewriter):
        output = graph.outputs[0]
        moved = rewriter.create("aten.mul.Scalar", output, 1 + 2**-22)
        rewriter.set_operand(graph.terminator, 0, moved.result)

    _, report = PassManager(nudge).run(mlp(), context())
    assert report.records[0].status is Status.ROLLED_BACK


def test_a_fold_whose_exact_value_is_zero_is_no_error() -> None:
    """The mean of a layer norm is zero over the reals; folded in float32 it is an ulp, at a scale of zero."""
    graph = parse("""
    constant %c: f32[4] = (1.5731044, 1.5684178, 0.24869792, 1.97083)
    input %x: f32[3]
    %0 = layer_norm(%c, none, none) {normalized_shape=(4,), eps=0.001}
    %1 = mean.dim(%0) {dim=(0,)}
    return %1, %x""")
    samples = [[torch.randn(3)]]
    report = PassManager("fold-constants", on_failure="raise").run(graph, PassContext(samples=samples)).report
    assert report.kept
