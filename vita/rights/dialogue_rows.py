"""The packed rows of dialogues on which `sft` trained, computed again from its recorded settings and its sources.

    rows = dialogue_rows(run, store, ledger, rows=8)
    rows.documents_by_row(step)          # the dialogues of each row, with their licences

The files must be those that the run read; the erasures of the run are applied again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vita.data.record_rights import rights_of
from vita.data.sources.read import dialogues
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.dialogue_encoding import EncodedDialogue
from vita.data.tokens.loader import RowUse
from vita.data.tokens.packing import PackedDataset
from vita.data.tokens.row_documents import RowDocument
from vita.data.tokens.truncation import ROW_TOKENS
from vita.data.tokens.tuning_examples import EncodingSettings, prepare_dialogue
from vita.rights.recorded_settings import reading_sources
from vita.rights.row_documents import Selection
from vita.spine.ledger import Ledger, Run
from vita.spine.renamed_settings import recorded_value
from vita.spine.store import Store


@dataclass(frozen=True)
class DialogueRows:
    """Packed rows of dialogues."""

    packing: PackedDataset
    owners: list[RowDocument]
    """The dialogue of each sequence of `packing`, in the order of its input."""
    rows: int
    seed: int

    def documents_by_row(self, step: int) -> list[list[RowDocument]]:
        """Return the dialogues of each row of a step."""
        numbers = self.packing.order(step * self.rows, self.rows, seed=self.seed)
        return [self._documents(number) for number in numbers]

    def uses(self, fits: Selection, *, steps: int) -> Iterator[RowUse]:
        """Yield the rows that contain dialogues that fit."""
        tokens = {
            number: sum(dialogue.tokens for dialogue in self._documents(number) if fits(dialogue.source, dialogue.id))
            for number in range(len(self.packing.rows))
        }
        for sequence, number in enumerate(self.packing.order(0, steps * self.rows, seed=self.seed)):
            if tokens[number]:
                yield RowUse(sequence // self.rows, sequence % self.rows, tokens[number])

    def sources_of(self, document: str) -> set[str]:
        """Return the sources with a dialogue of this id."""
        return {owner.source for owner in self.owners if owner.id == document}

    def _documents(self, number: int) -> list[RowDocument]:
        return [self.owners[index]._replace(tokens=tokens) for index, tokens in self.packing.items(number)]


def dialogue_rows(run: Run, store: Store, ledger: Ledger, *, rows: int) -> DialogueRows:
    """Return the rows of a run of `sft`; raise a `DataError` if a file of its sources is missing or has changed."""
    from vita.infer.pretrained import PretrainedText

    text = PretrainedText.load(store.open(ledger.inputs(run.id)["model"]).path)
    template = text.template or ChatTemplate.default()
    seed = int(run.config.get("seed", 0))
    settings = EncodingSettings(
        int(run.config.get("max_length") or min(text.architecture.context, ROW_TOKENS)),
        run.config.get("on_long", "truncate"),
        float(recorded_value(run.config, "eval_fraction", 0.0)),
        seed,
    )
    encoded, owners = list[EncodedDialogue](), list[RowDocument]()
    with reading_sources(run, ledger) as sources:
        for source in sources:
            for dialogue in dialogues(source):
                prepared = prepare_dialogue(dialogue, source, text.tokenizer, template, settings)
                if prepared.drop or prepared.held_out:
                    continue
                sequences = list(prepared.sequences) * prepared.repeats
                encoded += sequences
                owners += [RowDocument(dialogue.id, dialogue.source, rights_of(dialogue), 0)] * len(sequences)
    packing = PackedDataset(encoded, context=settings.length, pad=text.tokenizer.pad, too_long=settings.on_long)
    if not run.config.get("packing", True):
        packing.rows = [[number] for number in range(packing.dialogues)]
    return DialogueRows(packing, owners, rows, seed)
