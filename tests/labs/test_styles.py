"""Styles of convolutions as matrices, layers of equal function, and counts of what a forward costs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from course.labs import styles, vision


@pytest.fixture(scope="module")
def reader() -> Any:
    return vision.fuse_qkv(vision.classifier())


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"padding": "same", "dilation": 2, "bias": False}])
def test_a_matrix_is_its_convolution(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(3, 5, 3, **options), torch.randn(2, 3, 8, 8)
    matrix = styles.Matrix(conv)
    torch.testing.assert_close(matrix(x), conv(x), rtol=0, atol=0)
    assert matrix.kernel.weight.shape == (5, 27) and matrix.kernel.in_features == 27 and matrix.kernel.out_features == 5
    with torch.no_grad():
        matrix.kernel.weight.mul_(2)
        conv.weight.copy_(matrix.kernel.weight.view_as(conv.weight))
    torch.testing.assert_close(matrix(x), conv(x), rtol=0, atol=0)


class Branch(nn.Module):
    """What a LoRA for a convolution is to the lab: a base, factors and alpha."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        self.base, self.alpha = base, 6.0
        self.lora_A = nn.Parameter(torch.randn(2, *base.weight.shape[1:]))
        self.lora_B = nn.Parameter(torch.randn(len(base.weight), 2, 1, 1))


def test_a_style_is_taken_out_with_its_factors() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Sequential(nn.Conv2d(5, 4, 1)))
    before = model[0], model[1][0]
    styles.wrap(model, ["0", "1.0"], Branch)
    A = model[0].lora_A.detach().clone()
    assert A.abs().max() <= 27**-0.5 and A.std() > 0.1  # drawn anew
    styles.redraw(model, 0)
    assert torch.equal(A, model[0].lora_A)
    B = model[1][0].lora_B.detach().flatten(1)
    style = styles.take_out(model, ["0", "1.0"])
    assert (model[0], model[1][0]) == before
    assert set(style) == {"0.kernel", "1.0.kernel"}
    assert torch.equal(style["0.kernel"]["lora_A"], A.flatten(1)) and torch.equal(style["1.0.kernel"]["lora_B"], B)
    assert style["0.kernel"]["alpha"] == 6.0


def test_variants_begin_as_the_base(reader: Any) -> None:
    """An adapter whose last layer is zero changes nothing; a prefix does, as its keys take a share of the attention."""
    x = vision.pixels(reader, vision.digits("test", count=3)[0])
    adapted = styles.with_adapters(copy.deepcopy(reader), 4)
    with torch.no_grad():
        torch.testing.assert_close(adapted(x).logits, reader(x).logits, rtol=0, atol=0)
    added = sum(p.numel() for p in adapted.parameters()) - sum(p.numel() for p in reader.parameters())
    width, blocks = reader.config.hidden_size, reader.config.num_hidden_layers
    assert added == 2 * blocks * (2 * 4 * width + 4 + width)


def test_a_prefix_is_attended_to(reader: Any) -> None:
    """Against softmax by hand, for one attention."""
    torch.manual_seed(0)
    attention = next(module for module in reader.modules() if isinstance(module, vision.FusedAttention))
    prefixed = styles.Prefixed(attention, 3)
    nn.init.normal_(prefixed.prefix)
    x = torch.randn(2, 5, attention.qkv.in_features)
    with torch.no_grad():
        q, k, v = attention.qkv(x).unflatten(-1, (3, attention.heads, -1)).unbind(2)
        rows = []
        for head in range(attention.heads):
            keys, values = (
                torch.cat([own[0, head].expand(2, -1, -1), of_x[:, :, head]], 1)
                for own, of_x in zip(prefixed.prefix, (k, v), strict=True)
            )
            scores = q[:, :, head] @ keys.transpose(1, 2) / keys.shape[-1] ** 0.5
            rows.append(scores.softmax(-1) @ values)
        torch.testing.assert_close(prefixed(x)[0], attention.o_proj(torch.cat(rows, -1)), rtol=0, atol=1e-5)


def test_operations_are_counted() -> None:
    """Two products of (3, 4) by (4, 5) and (3, 5) by (5, 2), and what is between them."""
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    calls, products = styles.operations(model, torch.randn(3, 4))
    assert products == 3 * 4 * 5 + 3 * 5 * 2
    assert calls == 3
    longer = nn.Sequential(model, nn.ReLU())
    assert styles.operations(longer, torch.randn(3, 4)) == (4, products)


def test_every_model_is_timed_in_every_round() -> None:
    models = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}
    seconds = styles.timed(models, torch.randn(1, 4), rounds=3, repeats=2)
    assert set(seconds) == {"a", "b"} and all(len(times) == 3 and min(times) > 0 for times in seconds.values())
