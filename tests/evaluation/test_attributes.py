import torch

from diffcore.evaluation.attributes import attribute_metrics, attribute_summary, compared, other_rows

ASKED = {"kind": torch.tensor([0, 1, 2, 2]), "size": torch.tensor([1, -1, 0, -1])}
FOUND = {"kind": torch.tensor([0, 1, 1, 2]), "size": torch.tensor([1, 0, 0, -1])}


def test_what_is_right_by_attribute_and_in_all():
    right = compared(ASKED, FOUND)
    assert right["kind"].tolist() == [1, 1, 0, 1]
    assert right["size"].nan_to_num(-1).tolist() == [1, -1, 1, -1]
    assert right["all"].tolist() == [1, 1, 0, 1]
    nothing = compared({"kind": torch.tensor([-1])}, {"kind": torch.tensor([0])})
    assert nothing["all"].isnan().all()


def test_metrics_stand_beside_the_control_and_real_examples():
    right = compared(ASKED, FOUND)
    control = {name: 1 - value for name, value in right.items()}
    found = attribute_metrics("prompt", right, control, right, "real bells")
    assert [(metric.name, metric.value) for metric in found] == [
        ("prompt_kind", 75),
        ("prompt_size", 100),
        ("prompt_all", 75),
    ]
    assert found[0].meaning == "% of 4 samples; 25 with the prompts of others; 75 for real bells with their own"
    assert found[1].meaning.startswith("% of 2 samples; 0 with")


def test_the_summary_counts_samples_of_which_something_was_asked():
    assert attribute_summary(compared(ASKED, FOUND), "bells") == [
        "3 of 4 bells show what was asked for (kind 3 of 4, size 2 of 2)"
    ]
    nothing = {"kind": torch.full((4,), -1)}
    assert attribute_summary(compared(nothing, FOUND), "bells") == []


def test_the_control_gives_each_sample_the_sentence_of_another():
    for n in (2, 3, 50):
        rows = other_rows(n)
        assert sorted(rows.tolist()) == list(range(n))
        assert (rows != torch.arange(n)).all()
