import torch

from diffcore.demo.controls import controls_of
from diffcore.denoising.conditions import ClassCondition, ScalarCondition
from diffcore.denoising.conditions.coarse_condition import CoarseGrid


def test_a_class_gets_a_menu_and_a_number_a_slider_with_the_quantiles_of_the_data():
    mass = ScalarCondition.measured("mass", torch.tensor([3.0, 1.0, 2.0]), "Da", levels=3)
    menu, slider = controls_of([ClassCondition("ring", ("<b>", "outer")), mass])
    assert (menu.kind, menu.choices) == ("menu", ("<b>", "outer"))
    assert (slider.kind, slider.quantiles, slider.unit) == ("slider", (1.0, 2.0, 3.0), "Da")


def test_a_condition_that_is_read_from_a_path_gets_a_file():
    """A text would let a visitor name any file of the machine."""
    (control,) = controls_of([CoarseGrid("small", (1, 4, 4), 0.1, 2)])
    assert control.kind == "file"
