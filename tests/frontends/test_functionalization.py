"""In-place operators and views against eager."""

from __future__ import annotations

import pytest
import torch

from tests.frontends.running import check


def grid(*shape: int) -> torch.Tensor:
    count = 1
    for size in shape:
        count *= size
    return torch.arange(count, dtype=torch.float32).reshape(shape) - 3.0


VIEWS = {
    "view": lambda x: x.view(6, 4),
    "view -1": lambda x: x.view(2, -1),
    "reshape": lambda x: x.reshape(4, 6),
    "flatten": lambda x: x.flatten(1),
    "unflatten": lambda x: x.unflatten(2, (2, 2)),
    "permute": lambda x: x.permute(2, 0, 1),
    "transpose": lambda x: x.transpose(0, -1),
    "swapaxes": lambda x: x.swapaxes(0, 1),
    "movedim": lambda x: x.movedim(0, 2),
    "movedim list": lambda x: x.movedim((0, 1), (1, 2)),
    "mT": lambda x: x.mT,
    "t": lambda x: x[0].t(),
    "numpy T": lambda x: x[1].T,
    "squeeze": lambda x: x[:1].squeeze(),
    "squeeze dim": lambda x: x[:, :1].squeeze(1),
    "squeeze no-op": lambda x: x.squeeze(1),
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "select": lambda x: x[1],
    "select negative": lambda x: x[:, -1],
    "slice": lambda x: x[:, 1:3],
    "slice step": lambda x: x[..., ::2],
    "slice negative": lambda x: x[..., -3:-1],
    "narrow": lambda x: x.narrow(2, 1, 2),
    "narrow negative": lambda x: x.narrow(2, -2, 2),
    "diagonal": lambda x: x.diagonal(0, 1, 2),
    "diagonal offset": lambda x: x.diagonal(1, -2, -1),
    "as_strided": lambda x: x.as_strided((2, 2), (4, 2), 1),
    "expand same": lambda x: x.expand(2, 3, 4),
    "expand lead": lambda x: x.expand(1, 2, 3, 4),
    "unfold": lambda x: x.unfold(2, 2, 2),
    "split": lambda x: x.split(2, 2)[1],
    "split sizes": lambda x: x.split([1, 2], 1)[1],
    "chunk": lambda x: x.chunk(2, -1)[1],
    "tensor_split": lambda x: x.tensor_split(2, 1)[0],
    "tensor_split at": lambda x: x.tensor_split((1, 3), 2)[1],
    "hsplit": lambda x: x.hsplit(3)[1],
    "unbind": lambda x: x.unbind(1)[2],
    "iterate": lambda x: next(iter(x)),
    "detach": lambda x: x.detach(),
    "alias": lambda x: x.view_as(x),
    "contiguous": lambda x: x.contiguous(),
    "contiguous copy": lambda x: x.transpose(0, 1).contiguous(),
    "reshape copy": lambda x: x.transpose(0, 1).reshape(6, 4),
    "clone": lambda x: x.clone(),
    "to same": lambda x: x.to(torch.float32),
    "to other": lambda x: x.to(torch.float64),
    "float": lambda x: x.float(),
    "dropout eval": lambda x: torch.nn.functional.dropout(x, training=False),
    "bitcast": lambda x: x.view(torch.int32),
    "chained": lambda x: x.transpose(0, 1)[1:].reshape(2, 2, 4)[..., 1:3].select(0, 0),
    "chained split": lambda x: x.view(6, 4).chunk(2, 0)[1].t().split(1)[2],
    "ravel": lambda x: x.ravel(),
    "vsplit": lambda x: x.vsplit(2)[0],
    "broadcast": lambda x: torch.broadcast_tensors(x, x[:1])[0],
}


@pytest.mark.parametrize("name", VIEWS)
def test_write_to_a_view_reaches_its_base(name: str) -> None:
    view = VIEWS[name]

    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        base = x.clone()
        other = base[0]
        seen = view(base)
        seen.add_(100)
        return base * 1, seen * 2, other * 3, view(base) * 4

    check(function, grid(2, 3, 4))


@pytest.mark.parametrize("name", VIEWS)
def test_write_to_the_base_reaches_its_views(name: str) -> None:
    view = VIEWS[name]

    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        base = x + 0
        seen = view(base)
        base[:, 1] = 7
        base.mul_(2)
        return seen, base

    check(function, grid(2, 3, 4))


IN_PLACE = {
    "add_": lambda x: x.add_(2),
    "add_ alpha": lambda x: x.add_(x * 2, alpha=3),
    "sub_": lambda x: x.sub_(1.5),
    "mul_ tensor": lambda x: x.mul_(x + 1),
    "div_": lambda x: x.div_(2),
    "div_ rounded": lambda x: x.div_(2, rounding_mode="floor"),
    "pow_": lambda x: x.pow_(2),
    "relu_": lambda x: x.relu_(),
    "sigmoid_": lambda x: x.sigmoid_(),
    "clamp_": lambda x: x.clamp_(0, 4),
    "leaky_relu_": lambda x: torch.nn.functional.leaky_relu_(x),
    "hardswish": lambda x: torch.nn.functional.hardswish(x, inplace=True),
    "silu": lambda x: torch.nn.functional.silu(x, inplace=True),
    "copy_": lambda x: x.copy_(x.flip(0)),
    "copy_ broadcast": lambda x: x.copy_(x[:, :1, :1]),
    "copy_ cast": lambda x: x.copy_(torch.arange(4)),
    "copy_ to double": lambda x: x.copy_(x.double()),
    "fill_": lambda x: x.fill_(3),
    "fill_ tensor": lambda x: x.fill_(x.sum()),
    "zero_": lambda x: x.zero_(),
    "masked_fill_": lambda x: x.masked_fill_(x > 2, -1.0),
    "masked_fill_ tensor": lambda x: x.masked_fill_(x > 2, x.max()),
    "masked_scatter_": lambda x: x.masked_scatter_(x > 2, x * 10),
    "index_put_": lambda x: x.index_put_((torch.tensor([0, 1]), torch.tensor([2, 0])), torch.ones(2, 4)),
    "index assignment": lambda x: x.__setitem__((slice(None), torch.tensor([0, 2])), 5.0),
    "mask assignment": lambda x: x.__setitem__(x > 3, 0.0),
    "accumulate": lambda x: x.index_put_((torch.tensor([0, 0]),), torch.ones(2, 3, 4), accumulate=True),
    "index_add_": lambda x: x.index_add_(1, torch.tensor([0, 2]), torch.ones(2, 2, 4)),
    "index_copy_": lambda x: x.index_copy_(0, torch.tensor([1]), torch.ones(1, 3, 4)),
    "index_fill_": lambda x: x.index_fill_(2, torch.tensor([1]), 9.0),
    "scatter_": lambda x: x.scatter_(0, torch.zeros(1, 3, 4, dtype=torch.long), x[:1] + 1),
    "scatter_ value": lambda x: x.scatter_(2, torch.zeros(2, 3, 1, dtype=torch.long), 4.0),
    "scatter_add_": lambda x: x.scatter_add_(0, torch.zeros(2, 3, 4, dtype=torch.long), x.clone()),
    "scatter_reduce_": lambda x: x.scatter_reduce_(0, torch.zeros(2, 3, 4, dtype=torch.long), x.clone(), "amax"),
    "addcmul_": lambda x: x.addcmul_(x + 1, x + 2, value=0.5),
    "lerp_": lambda x: x.lerp_(x * 2, 0.5),
    "comparison": lambda x: x.gt_(2),
    "logical_not_": lambda x: x.logical_not_(),
    "iadd double": lambda x: x.__iadd__(torch.ones(4, dtype=torch.float64)),
    "tril_": lambda x: x.tril_(),
    "cumsum_": lambda x: x.cumsum_(1),
    "t_": lambda x: x[0].t_().add_(1),
    "transpose_": lambda x: x.transpose_(0, 1).mul_(3),
    "unsqueeze_": lambda x: x.unsqueeze_(0).mul_(3),
    "squeeze_": lambda x: x[:1].squeeze_().mul_(3),
    "swapaxes_": lambda x: x.swapaxes_(0, 2).mul_(3),
    "detach_": lambda x: x.detach_().mul_(3),
    "foreach": lambda x: torch._foreach_add_([x[0], x[1]], 1.0),
    "foreach list": lambda x: torch._foreach_mul_([x[0], x[1]], [x[1].clone(), x[0].clone()]),
    "out": lambda x: torch.add(x, 1, out=x),
    "out of a view": lambda x: torch.mul(x[0], 2, out=x[1]),
    "out several": lambda x: torch.max(x.clone(), 0, out=(x[1], torch.empty(3, 4, dtype=torch.long))),
    "clip_": lambda x: x.clip_(min=1),
    "fmod_": lambda x: x.fmod_(2),
    "remainder_": lambda x: x.remainder_(2),
    "exp_": lambda x: x.exp_(),
    "nan_to_num_": lambda x: x.nan_to_num_(),
    "sign_": lambda x: x.sign_(),
    "floor_divide_": lambda x: x.floor_divide_(2),
    "dropout_": lambda x: torch.nn.functional.dropout(x, 0.5, False, inplace=True),
    "addmm_": lambda x: x[0].addmm_(torch.ones(3, 2), torch.ones(2, 4)),
    "baddbmm_": lambda x: x.baddbmm_(torch.ones(2, 3, 2), torch.ones(2, 2, 4), beta=0.5),
    "as data": lambda x: setattr(x, "data", x * 2),
    "renorm_": lambda x: x.renorm_(2, 0, 1.0),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_operator(name: str) -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        base = x * 1
        row = base.view(-1)[2:9]
        IN_PLACE[name](base)
        return base + 0, row + 0

    check(function, grid(2, 3, 4), tolerance=1e-6)


@pytest.mark.parametrize("name", ["add_", "copy_", "zero_", "index_put_", "t_", "foreach", "out of a view", "relu_"])
def test_input_mutation_becomes_an_update(name: str) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        IN_PLACE[name](x.view(2, 3, 4))
        return x.sum()

    graph = check(function, grid(2, 3, 4))
    assert graph.mutations == ("x",)


def test_integer_and_bool_tensors() -> None:
    def function(x: torch.Tensor, m: torch.Tensor) -> tuple[torch.Tensor, ...]:
        n = x.clone()
        n += 2
        n[1:] //= 2
        n <<= 1
        n &= 7
        k = m.clone()
        k |= n > 4
        k[0] = True
        k.logical_xor_(m)
        n[k] = -1
        return n, k

    check(function, torch.arange(6), torch.arange(6) % 2 == 0)


def test_complex_views() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        z = torch.view_as_complex(x.clone())
        z.real.add_(1)
        z.imag.mul_(2)
        torch.view_as_real(z)[..., 0] -= 3
        return torch.view_as_real(z), z.abs()

    check(function, grid(4, 2), tolerance=1e-6)


def test_views_of_views_stay_consistent() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        base = x.clone()
        a = base[0]
        b = base.view(-1)
        c = a.t()
        d = b[3:7]
        c[1] = 50
        d.neg_()
        a.add_(b[-4:])
        e = d.view(2, 2)
        e.t_()
        e[0] = 11
        base[..., 0].zero_()
        return base, a, b, c, d, e

    check(function, grid(2, 3, 4))


def test_results_of_writes_are_the_same_tensor() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x.clone()
        z = y.add_(1)
        z.mul_(2)
        w = y.unsqueeze_(0)
        w.sub_(1)
        return y, z, w

    check(function, grid(3, 2))


def test_out_resizes() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        result = torch.empty(0)
        torch.add(x, 1, out=result)
        result.mul_(2)
        return result, result.sum()

    check(function, grid(3, 2))


def test_dynamic_sizes() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        base = x.clone()
        half = base[:, : x.shape[1] // 2]
        half.add_(1)
        flat = base.view(-1)
        flat[1:] *= 2
        pieces = base.split(2, 1)
        pieces[0].zero_()
        base.t()[-1] = 5
        return base, half, flat, pieces[1]

    from tests.frontends.running import captured, run, same

    graph = captured(function, grid(3, 8), dynamic_shapes={"x": {0: torch.export.Dim("rows")}})
    for rows in (2, 5):
        x = grid(rows, 8)
        same(run(graph, (x,))[0], function(x))
