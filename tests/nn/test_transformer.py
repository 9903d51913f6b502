"""Laws of the decoder: what a position may see, and that every way to compute it agrees."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vita.nn.attention import BACKENDS
from vita.nn.transformer import Transformer
from vita.spine.errors import ConfigError, ModelError
from vita.testing import tiny_architecture, tiny_model


def ids(rows: int = 3, length: int = 20, *, seed: int = 0) -> Tensor:
    return torch.randint(259, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_a_later_token_changes_nothing_before_it() -> None:
    model, given = tiny_model(), ids()
    changed = given.clone()
    changed[:, 12] = (changed[:, 12] + 1) % 259
    before, after = model(given), model(changed)
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert (before[:, 12:] - after[:, 12:]).abs().amax((0, 2)).min() > 1e-3


def test_documents_packed_into_a_row_are_as_if_alone() -> None:
    model = tiny_model()
    first, second, third = ids(1, 7, seed=1), ids(1, 9, seed=2), ids(1, 4, seed=3)
    packed = torch.cat([first, second, third], dim=1)
    documents = torch.tensor([[0] * 7 + [1] * 9 + [2] * 4])
    alone = torch.cat([model(text) for text in (first, second, third)], dim=1)
    # The rotary embedding knows distances only, so positions may run on or start again.
    again = torch.cat([torch.arange(n) for n in (7, 9, 4)])[None]
    torch.testing.assert_close(model(packed, documents=documents), alone, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(model(packed, documents=documents, positions=again), alone, atol=2e-5, rtol=1e-5)


def test_positions_count_by_their_distance_only() -> None:
    model, given = tiny_model(), ids(2, 10)
    moved = torch.arange(10).expand(2, -1) + 30
    torch.testing.assert_close(model(given, positions=moved), model(given), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("backend", sorted({*BACKENDS.names()} - {"plain"}))
def test_every_backend_gives_the_plain_loss_and_gradient(backend: str, packed: bool, kv_heads: int) -> None:
    given = ids()
    documents = (torch.arange(19)[None] // torch.tensor([[4], [7], [30]])) if packed else None
    losses, gradients = [], []
    for attention in ("plain", backend):
        model = Transformer(tiny_architecture(kv_heads=kv_heads), attention=attention)
        model.load_state_dict(tiny_model(kv_heads=kv_heads).state_dict())
        logits = model(given[:, :-1], documents=documents)
        loss = F.cross_entropy(logits.flatten(0, 1), given[:, 1:].flatten())
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(losses[1], losses[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-3)


def test_an_unknown_backend_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean `sdpa`"):
        Transformer(tiny_architecture(), attention="sdap")


@pytest.mark.slow
@pytest.mark.parametrize("documents", [False, True])
def test_it_traces_into_one_graph(documents: bool) -> None:
    model, given = tiny_model(), ids()
    marks = torch.arange(20).expand(3, -1) // 5 if documents else None
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(given, documents=marks), model(given, documents=marks))
    torch.compiler.reset()


def test_bfloat16_stays_near_fp32_under_autocast_and_in_full() -> None:
    model, given = tiny_model(std=0.1), ids()
    exact = model(given)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(given)
    full = model.bfloat16()(given)
    assert mixed.dtype == full.dtype == torch.bfloat16
    for rounded in (mixed, full):
        assert F.cosine_similarity(rounded.float(), exact, dim=-1).min() > 0.999


def test_rounding_the_model_does_not_round_its_rotary_tables() -> None:
    model = tiny_model()
    exact = model.model.rotary.cosine.clone()
    assert torch.equal(model.bfloat16().float().model.rotary.cosine, exact)


def test_a_model_made_without_memory_gets_its_tables_with_it() -> None:
    with torch.device("meta"):
        model = Transformer(tiny_architecture())
    model.to_empty(device="cpu")
    model.model.rotary.reset_parameters()
    model.load_state_dict(tiny_model().state_dict())
    torch.testing.assert_close(model(ids()), tiny_model()(ids()))


def test_a_tied_head_is_the_embedding_and_is_not_stored_twice() -> None:
    tied, untied = tiny_model(tied=True), tiny_model(tied=False)
    assert tied.head_weight is tied.model.embed_tokens.weight
    assert "lm_head.weight" not in tied.state_dict()
    assert "lm_head.weight" in untied.state_dict()


def test_a_text_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ModelError, match="expected at most 64 tokens, the model's context, got 65"):
        tiny_model()(ids(1, 65))
