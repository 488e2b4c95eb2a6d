"""Names that users give to conditions and fields: none may meet the names that PyTorch uses itself."""

import pytest
import torch
from safetensors.torch import load, save
from tensordict import TensorDict
from torch import nn

from diffcore.denoising.conditions import ClassCondition, ScalarCondition, parse_conditions
from diffcore.denoising.denoiser import Denoiser
from diffcore.denoising.embedding import Conditioning, module_key
from diffcore.denoising.noisy_classifier import NoisyClassifier
from diffcore.errors import UserError, did_you_mean
from diffcore.states.level import Level
from diffcore.states.spaces import Euclidean, Product

WEIRD = [
    "",
    ".",
    "..",
    "a.b",
    "a_b",
    "a%2Eb",
    "%",
    "half",
    "half%",
    "type",
    "training",
    "keys",
    "_modules",
    "T_destination",
]
WEIRD += [
    "logD7.4",
    "a b",
    "a/b",
    "a=b",
    "a~b",
    "猫",
    "犬",
    "é",
    "e\u0301",
    "\udc80",
    "\n",
    "x" * 250,
    "x" * 251,
    "label",
]


def test_keys_of_modules_are_accepted_by_pytorch_and_never_equal():
    keys = [module_key(name) for name in WEIRD]
    assert len({*keys}) == len(WEIRD)
    modules = nn.ModuleDict({key: nn.Linear(1, 1) for key in keys})
    assert list(modules) == keys
    assert [name for name in WEIRD if module_key(name) == name] == ["a_b", "x" * 250, "x" * 251, "label"]


def test_each_condition_has_an_embedding_of_its_own_whatever_its_name():
    torch.manual_seed(0)
    conditions = tuple(ClassCondition(name, ("a", "b")) for name in WEIRD)
    conditioning = Conditioning(conditions, 8)
    nothing = {c.name: c.null(1) for c in conditions}
    log_snr = torch.zeros(1)
    base = conditioning(log_snr, nothing).vector
    seen = [conditioning(log_snr, {**nothing, name: torch.zeros(1, dtype=torch.int64)}).vector for name in WEIRD]
    assert len({tuple(row.flatten().tolist()) for row in [base, *seen]}) == len(WEIRD) + 1
    again = Conditioning(conditions, 8)
    again.load_state_dict(load(save(conditioning.state_dict())))
    assert torch.equal(again(log_snr, nothing).vector, base)


def test_a_denoiser_takes_conditions_of_any_name():
    conditions = tuple(ClassCondition(name, ("a", "b")) for name in WEIRD)
    denoiser = Denoiser(Halves(), conditions, "x0")
    x = Product({"place": Euclidean((2,))}).empty(2)
    denoiser(x, Level(0.5, 0.5), {c.name: c.null(2) for c in conditions})


def test_names_of_ordinary_conditions_are_as_in_older_files():
    state = Conditioning(
        (ClassCondition("label", ("a",)), ScalarCondition("logp", 0.0, 1.0, (0.0, 1.0))), 4
    ).state_dict()
    assert {"embeddings.label.weight", "embeddings.logp.null"} <= state.keys()


def test_two_conditions_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two conditions have the name 'a'"):
        Conditioning((ClassCondition("a", ("x",)), ClassCondition("a", ("y",))), 4)


class Halves(nn.Module):
    """Half of each field; or the means of all fields."""

    width = 4

    def __init__(self, pooled=False):
        super().__init__()
        self.pooled = pooled

    def forward(self, x, conditioning, mask=None):
        if self.pooled:
            return torch.stack([value.mean(1) for value in x.values()], 1)
        return TensorDict({name: value / 2 for name, value in x.items()}, batch_size=x.batch_size)


def test_fields_may_have_any_name():
    names = [name for name in WEIRD if name]
    space = Product({name: Euclidean((2,)) for name in names})
    x = space.empty(3)
    assert list(x.keys()) == names
    for index, name in enumerate(names):
        x[name] = x[name] + index
    prediction = Denoiser(Halves(), (), "x0")(x, Level(0.6, 0.8))
    for index, name in enumerate(names):
        torch.testing.assert_close(prediction.x0[name], torch.full((3, 2), index / 2), rtol=0, atol=1e-6)


def test_a_classifier_s_outputs_belong_to_conditions_of_any_name():
    conditions = tuple(ClassCondition(name, ("a",)) for name in WEIRD if name)
    space = Product({c.name: Euclidean((2,)) for c in conditions})
    x = space.empty(2)
    for index, c in enumerate(conditions):
        x[c.name] = x[c.name] + index
    outputs = NoisyClassifier(Halves(pooled=True), conditions)(x, Level(1.0, 0.0))
    assert [value[0].item() for value in outputs.values()] == pytest.approx(range(len(conditions)))


def test_values_are_asked_for_by_any_name_and_near_names_are_suggested():
    conditions = [ScalarCondition(name, 0.0, 1.0, (0.0, 1.0)) for name in WEIRD]
    values = parse_conditions(conditions, dict.fromkeys(WEIRD, "0.5"), [0])
    assert all(value.item() == 0.5 for value in values.values())
    with pytest.raises(UserError, match=r"unknown condition 'LogD7.4' \(did you mean 'logD7.4'\?\); this model takes"):
        parse_conditions(conditions, {"LogD7.4": "1"}, [0])
    animals = ClassCondition("label", ("Tabby", "1", "2"))
    with pytest.raises(UserError, match=r"unknown label 'taby' \(did you mean 'Tabby'\?\); this model knows"):
        animals.parse("taby", [0], 0)
    with pytest.raises(UserError, match=r"this model knows: Tabby, 1, 2; by index, #0 to #2"):
        animals.parse("0", [0], 0)
    assert did_you_mean("12", animals.classes) == ""
    assert did_you_mean("LogP", ["logp"]) == " (did you mean 'logp'?)"


@pytest.mark.parametrize(
    ("classes", "text", "index"),
    [
        (("1", "2", "3"), "1", 0),
        (("1", "2", "3"), "#1", 1),
        (("01", "02", "03"), "#0", 0),
        (("a", "#0"), "#0", 1),
        (("T\u00fcr", "Tor"), "Tu\u0308r", 0),
        (("1", "2", "3"), "0", None),
        (("01", "02", "03"), "1", None),
        (("a", "b"), "1", None),
        (("a", "b"), "#2", None),
        (("a", "b"), "#", None),
        (("a", "b"), "#-1", None),
        (("a", "b"), "#" + "9" * 5000, None),
    ],
)
def test_a_class_is_a_name_or_an_index_after_a_hash(classes, text, index):
    condition = ClassCondition("label", classes)
    if index is None:
        with pytest.raises(UserError, match="unknown label"):
            condition.parse(text, [0, 1], 0)
    else:
        assert condition.parse(text, [0, 1], 0).tolist() == [index, index]
