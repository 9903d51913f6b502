"""The decoder: causal masking, packed documents, attention backends and precisions."""

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


def test_a_later_token_does_not_change_earlier_outputs() -> None:
    model, token_ids = tiny_model(), ids()
    changed = token_ids.clone()
    changed[:, 12] = (changed[:, 12] + 1) % 259
    before, after = model(token_ids), model(changed)
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert (before[:, 12:] - after[:, 12:]).abs().amax((0, 2)).min() > 1e-3


def test_packed_documents_equal_single_documents() -> None:
    model = tiny_model()
    first, second, third = ids(1, 7, seed=1), ids(1, 9, seed=2), ids(1, 4, seed=3)
    packed = torch.cat([first, second, third], dim=1)
    documents = torch.tensor([[0] * 7 + [1] * 9 + [2] * 4])
    expected = torch.cat([model(text) for text in (first, second, third)], dim=1)
    # The rotary embedding depends only on distances, so positions may continue or restart.
    restarted_positions = torch.cat([torch.arange(n) for n in (7, 9, 4)])[None]
    torch.testing.assert_close(model(packed, documents=documents), expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(
        model(packed, documents=documents, positions=restarted_positions), expected, atol=2e-5, rtol=1e-5
    )


def test_only_the_distance_of_positions_matters() -> None:
    model, token_ids = tiny_model(), ids(2, 10)
    shifted_positions = torch.arange(10).expand(2, -1) + 30
    torch.testing.assert_close(model(token_ids, positions=shifted_positions), model(token_ids), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("backend", sorted({*BACKENDS.names()} - {"plain"}))
def test_every_backend_equals_plain_attention_in_loss_and_gradient(backend: str, packed: bool, kv_heads: int) -> None:
    token_ids = ids()
    documents = (torch.arange(19)[None] // torch.tensor([[4], [7], [30]])) if packed else None
    losses, gradients = [], []
    for attention in ("plain", backend):
        model = Transformer(tiny_architecture(kv_heads=kv_heads), attention=attention)
        model.load_state_dict(tiny_model(kv_heads=kv_heads).state_dict())
        logits = model(token_ids[:, :-1], documents=documents)
        loss = F.cross_entropy(logits.flatten(0, 1), token_ids[:, 1:].flatten())
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(losses[1], losses[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-3)


def test_an_unknown_backend_is_refused_with_the_closest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean `sdpa`"):
        Transformer(tiny_architecture(), attention="sdap")


@pytest.mark.slow
@pytest.mark.parametrize("documents", [False, True])
def test_the_model_compiles_into_one_graph(documents: bool) -> None:
    model, token_ids = tiny_model(), ids()
    document_ids = torch.arange(20).expand(3, -1) // 5 if documents else None
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(token_ids, documents=document_ids), model(token_ids, documents=document_ids))
    torch.compiler.reset()


def test_bfloat16_is_close_to_float32_with_autocast_and_without() -> None:
    model, token_ids = tiny_model(std=0.1), ids()
    exact = model(token_ids)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(token_ids)
    full = model.bfloat16()(token_ids)
    assert mixed.dtype == full.dtype == torch.bfloat16
    for rounded in (mixed, full):
        assert F.cosine_similarity(rounded.float(), exact, dim=-1).min() > 0.999


def test_converting_the_model_does_not_round_its_rotary_tables() -> None:
    model = tiny_model()
    exact = model.model.rotary.cosine.clone()
    assert torch.equal(model.bfloat16().float().model.rotary.cosine, exact)


def test_a_model_created_on_the_meta_device_gets_its_rotary_tables() -> None:
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
