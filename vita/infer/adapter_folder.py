"""The folder of an adapter as an artifact: peft's files, the tokenizer, and the reference to the base model."""

from __future__ import annotations

from pathlib import Path

from vita.nn import hf
from vita.nn.adapters.attach import adapter_of
from vita.nn.adapters.files import save_adapter
from vita.nn.transformer import Transformer
from vita.spine.model_files import BASE, ModelFiles, write_description

QUANTIZATION = "quantization"
"""Entry of `vita.json`: the number format in which the base was frozen during training."""


def save_adapter_successor(model: Transformer, folder: Path, *, source: ModelFiles, base: str, **progress: int) -> None:
    """Save the adapter of a model that was trained from the one in `source`, with tokenizer and templates of `source`.

    `base` is the digest of the base model. `progress` is written to `vita.json`.
    """
    adapter = adapter_of(model)
    assert adapter is not None
    save_adapter(model, folder, base=f"../{base}")
    hf.copy_tokenizer_files(source, folder)
    if not (folder / hf.GENERATION).exists():  # the draft does not find the `config.json` of its base
        hf.save_generation(hf.load_generation(source), folder)
    hf.pad_left(folder)
    values = {"context": model.architecture.context, **progress, BASE: base}
    if quantization := adapter.quantization.as_json():
        values[QUANTIZATION] = quantization
    write_description(folder, values)


def save_adapter_beside(model: Transformer, folder: Path, *, source: ModelFiles, **progress: int) -> None:
    """Save the adapter of a model outside of a store, with the path of its base model."""
    adapter = adapter_of(model)
    assert adapter is not None
    save_adapter(model, folder, base=str(source.weights.folder.resolve()))
    hf.copy_tokenizer_files(source, folder)
    hf.pad_left(folder)
    values: dict[str, object] = {"context": model.architecture.context, **progress}
    if quantization := adapter.quantization.as_json():
        values[QUANTIZATION] = quantization
    write_description(folder, values)
