"""CUDA graphs of decoding steps: all kernels of a step are launched at once, which saves the time of the host.

    graphs = StepGraphs(model)
    output = graphs.output(step, tokens, sampler, places)          # a shape is recorded at its fifth step

A graph has fixed shapes and fixed addresses. It is recorded for a number of rows, a number of slots (the next power of
two), the tensors of one size class of the cache and a variant of sampling. It ends with the choice of the tokens, so
that the host waits once; with biases, penalties or a grammar, the choice follows the graph. Rows without a text are
computed, too: they write into places of the cache that hold no text. The numbers of a text are those of a step without
a graph if the kernels add nothing for masked slots: the widths are measured beside texts of several lengths
(`vita.infer.batch_invariance`), and on a CPU the number of slots is a multiple of what the kernel takes at a time
(`vita.infer.row_cache`).
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vita.infer.batch_attention import grouped_attention
from vita.infer.decoding_pass import DecodingPass
from vita.infer.logprobs import head_logits
from vita.infer.row_cache import BLOCK, SizeClass
from vita.infer.sampler import Controls, Sampler, Variant, choices
from vita.nn.attention import PLAIN, Attention, AttentionOptions
from vita.nn.transformer import Transformer

log = logging.getLogger(__name__)

# W row of the pass, K key head, H query head, S slot, E numbers of a key, V of a value or vocabulary


class StepOutput(NamedTuple):
    """The results of a step for each row, valid until the next step."""

    logits: Float[Tensor, "W V"]
    choices: Float[Tensor, "W 2"]
    """The chosen token and its log-probability, in float64."""


Recorder = Callable[[Callable[[], StepOutput]], tuple[StepOutput, Callable[[], None]]]
"""Records a computation: returns its output, and a function that computes the content of its tensors again."""
MAX_GRAPHS = 64
"""Graphs that are kept; the least recently used one is dropped."""
UNRECORDED_STEPS = 4
"""Steps of a shape before it is recorded: a recording costs as much as a few steps."""

_Shape = tuple[int, int, int, int, Variant]
"""Rows, slots, the addresses of keys and values, and the computation of the choices."""


@dataclass(frozen=True)
class _Graph:
    """A recorded step: its inputs, its output and the function that computes the output."""

    tokens: Int[Tensor, "W 1"]
    positions: Int[Tensor, "W"]
    controls: Float[Tensor, "W 5"]
    output: StepOutput
    replay: Callable[[], None]


class StepGraphs:
    """The recorded steps of a model, by shape."""

    def __init__(self, model: Transformer, *, group: int, recorder: Recorder | None = None) -> None:
        """`group` is that of `DecodingPass`; `recorder` is by default that of CUDA graphs."""
        self._model, self._group = model, group
        self._record = recorder or cuda_recorder()
        self._graphs: OrderedDict[_Shape, _Graph] = OrderedDict()
        self._counts: Counter[_Shape] = Counter()
        self._failed = False

    @staticmethod
    def supports(model: Transformer) -> bool:
        """Return True if the shapes of a step depend on nothing but the number of rows and slots.

        Experts get varying numbers of tokens, latent keys are expanded by text, and rotary frequencies that depend on
        the length of a text are chosen by the host.
        """
        architecture = model.architecture
        return not (architecture.experts or architecture.latent or architecture.rope_depends_on_length)

    def output(
        self, step: DecodingPass, tokens: Int[Tensor, "W 1"], sampler: Sampler, places: Sequence[tuple[int, int]]
    ) -> StepOutput | None:
        """Return the logits and choices of a step, or None if its shape is irregular.

        A regular step has one token for each text of a single size class. `places` are the requests of `sampler`. If a
        step cannot be recorded, this is logged, and no further step is recorded.
        """
        size_class = step.regular_class
        if size_class is None or self._failed:
            return None
        width, device = len(tokens), size_class.keys.device
        size_class.reserve(width)  # so that the step may write into rows without a text
        slots = min(size_class.slots, max(BLOCK, 1 << (step.slots - 1).bit_length()))
        variant, controls = sampler.variant(places), sampler.packed_controls(places, width)
        key = width, slots, size_class.keys.data_ptr(), size_class.values.data_ptr(), variant
        graph = self._graphs.get(key)
        if graph is None:
            self._counts[key] += 1
            inputs = tokens.to(device, copy=True), step.padded_positions(width).clone(), controls.to(device, copy=True)
            compute = self._computation(size_class, *inputs, slots=slots, variant=variant, tokens=sampler.tokens)
            if self._counts[key] <= UNRECORDED_STEPS:
                return compute()
            try:
                recorded = self._record(compute)
            except RuntimeError as error:
                first_line = (str(error).splitlines() or [type(error).__name__])[0]
                log.warning("steps are not recorded as CUDA graphs, which makes decoding slower: %s", first_line)
                self._failed = True
                self._graphs.clear()
                return compute()
            graph = self._graphs[key] = _Graph(*inputs, *recorded)
            if len(self._graphs) > MAX_GRAPHS:
                dropped, _ = self._graphs.popitem(last=False)
                del self._counts[dropped]
        self._graphs.move_to_end(key)
        graph.tokens.copy_(tokens, non_blocking=True)
        graph.positions.copy_(step.padded_positions(width))
        graph.controls.copy_(controls, non_blocking=True)
        graph.replay()
        return graph.output

    def _computation(
        self,
        size_class: SizeClass,
        inputs: Int[Tensor, "W 1"],
        positions: Int[Tensor, "W"],
        controls: Float[Tensor, "W 5"],
        *,
        slots: int,
        variant: Variant,
        tokens: int | None,
    ) -> Callable[[], StepOutput]:
        """Return the function that computes a step from the present content of its inputs."""
        keys, values = (states[:, : len(inputs), :, :slots] for states in (size_class.keys, size_class.values))

        def compute() -> StepOutput:
            fixed = _FixedPass(keys, values, positions, group=self._group)
            attention = fixed.attention(self._model.attention)
            hidden = self._model.hidden(inputs, cache=fixed, attention=attention)[:, -1]
            logits = head_logits(self._model, hidden)
            chosen, logprobs = choices(logits, Controls.unpacked(controls), variant=variant, tokens=tokens)
            return StepOutput(logits, torch.stack([chosen.double(), logprobs.double()], dim=1))

        return compute


class _FixedPass:
    """The keys and values of a step with a text in each row (`vita.nn.transformer.KeysAndValues`)."""

    def __init__(
        self,
        keys: Float[Tensor, "L W K S E"],
        values: Float[Tensor, "L W K S V"],
        positions: Int[Tensor, "W"],
        *,
        group: int,
    ) -> None:
        self._keys, self._values, self._positions, self._group = keys, values, positions, group
        self._rows = torch.arange(len(positions), device=positions.device)
        self._slots = torch.arange(keys.shape[3], device=positions.device)

    def begin(self, rows: int, tokens: int) -> tuple[Int[Tensor, "W 1"], Bool[Tensor, "W 1 1 S"]]:
        """Return the positions and the mask of one token in each row."""
        assert tokens == 1 and rows == len(self._positions), "each row has one token"
        return self._positions[:, None], self._slots <= self._queries

    def window_mask(self, window: int) -> Bool[Tensor, "W 1 1 S"]:
        """Return the mask of the layers in which queries attend to the last `window` tokens."""
        return (self._slots <= self._queries) & (self._slots > self._queries - window)

    def text_lengths(self) -> Int[Tensor, "W"]:
        """Return the length of each text, with the token of the pass."""
        return self._positions + 1

    def write(
        self, layer: int, keys: Float[Tensor, "W K 1 E"], values: Float[Tensor, "W K 1 V"]
    ) -> tuple[Float[Tensor, "W K S E"], Float[Tensor, "W K S V"]]:
        """Store the new keys and values of a layer; return those of all texts."""
        self._keys[layer][self._rows, :, self._positions] = keys[:, :, 0]
        self._values[layer][self._rows, :, self._positions] = values[:, :, 0]
        return self._keys[layer], self._values[layer]

    def attention(self, backend: Attention) -> Attention:
        """Return an attention function for one query in each row."""

        def attention(
            queries: Float[Tensor, "W H 1 E"],
            keys: Float[Tensor, "W K S E"],
            values: Float[Tensor, "W K S E"],
            visible: Bool[Tensor, "W 1 1 S"] | None = None,
            options: AttentionOptions = PLAIN,
        ) -> Float[Tensor, "W H 1 E"]:
            assert visible is not None, "a decoding step has a mask"
            return grouped_attention(backend, queries, keys, values, visible, options, group=self._group)

        return attention

    @property
    def _queries(self) -> Int[Tensor, "W 1 1 1"]:
        return self._positions[:, None, None, None]


def cuda_recorder() -> Recorder:
    """Return the recorder of CUDA graphs, which share the memory of their intermediate results."""
    pool = torch.cuda.graph_pool_handle()

    def record(compute: Callable[[], StepOutput]) -> tuple[StepOutput, Callable[[], None]]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            compute()  # libraries allocate their work space outside of the graph
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            output = compute()
        return output, graph.replay

    return record
