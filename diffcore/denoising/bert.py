"""BERT, the transformer of Devlin et al. 2019, without what only its training needs."""

import re
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

_RENAMED = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "kinds",
    "embeddings.LayerNorm": "norm",
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "output",
    "attention.output.LayerNorm": "norms.0",
    "intermediate.dense": "wide",
    "output.dense": "narrow",
    "output.LayerNorm": "norms.1",
}
"""The modules of `Bert` by their names in files of Hugging Face's `BertModel`."""
_UNUSED = re.compile(r"pooler\..*|embeddings\.position_ids")
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.*)")


class Bert(nn.Module):
    """A transformer encoder: ids `[B, L]` and a mask to the last hidden states `[B, L, width]`.

    The sum of embeddings of words, positions and a segment is normalised; each layer is h <- LN(h + attention(h)),
    h <- LN(h + MLP(h)) with GELU. Devlin et al. 2019, section 3, and Vaswani et al. 2017, section 3.1.

    * `count`, `length`: the size of the vocabulary, and the largest L.
    * `hidden`: the channels of the hidden layer of each MLP.
    * `epsilon`: what is added to variances in layer normalisation.
    """

    def __init__(
        self, count: int, length: int, width: int, hidden: int, layers: int, heads: int, epsilon: float = 1e-12
    ) -> None:
        super().__init__()
        self.width = width
        self.words = nn.Embedding(count, width)
        self.positions = nn.Embedding(length, width)
        self.kinds = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, epsilon)
        self.layers = nn.ModuleList(_Layer(width, hidden, heads, epsilon) for _ in range(layers))

    def forward(self, ids: Tensor, exists: Tensor) -> Tensor:
        """Ids `[B, L]`, of which those where the mask `exists` `[B, L]` is False are not attended to."""
        h = self.norm(self.words(ids) + self.positions.weight[: ids.shape[1]] + self.kinds.weight[0])
        for layer in self.layers:
            h = layer(h, exists)
        return h


class _Layer(nn.Module):
    def __init__(self, width: int, hidden: int, heads: int, epsilon: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width, epsilon) for _ in range(2))

    def forward(self, h: Tensor, exists: Tensor) -> Tensor:
        q, k, v = (
            part(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=exists[:, None, None, :])
        h = self.norms[0](h + self.output(mixed.transpose(1, 2).flatten(2)))
        return self.norms[1](h + self.narrow(functional.gelu(self.wide(h))))


def bert_of(tensors: Mapping[str, Tensor], heads: int, epsilon: float = 1e-12) -> Bert:
    """The network with the weights of Hugging Face's `BertModel`, which are frozen; sizes follow from their shapes.

    Raises `ValueError` or `KeyError` if a tensor is missing, superfluous or of another shape.
    """
    renamed = {_own_name(name): tensor for name, tensor in tensors.items() if not _UNUSED.fullmatch(name)}
    count, width = renamed["words.weight"].shape
    length, hidden = len(renamed["positions.weight"]), len(renamed["layers.0.wide.weight"])
    layers = 1 + max(int(name.split(".")[1]) for name in renamed if name.startswith("layers."))
    if layers > _MOST_LAYERS or width % heads:
        raise ValueError(f"{layers} layers of width {width} with {heads} heads")
    network = Bert(count, length, width, hidden, layers, heads, epsilon)
    try:
        network.load_state_dict(renamed)
    except RuntimeError as error:
        raise ValueError(str(error).partition("\n")[2].strip().partition("\n")[0]) from None
    return network.eval().requires_grad_(False)


_MOST_LAYERS = 100


def _own_name(name: str) -> str:
    """The name of a tensor in `Bert`; unknown names stay as they are."""
    layer = _LAYER.fullmatch(name)
    prefix, rest = (f"layers.{layer[1]}.", layer[2]) if layer else ("", name)
    module, _, kind = rest.rpartition(".")
    return f"{prefix}{_RENAMED.get(module, module)}.{kind}"
