import torch

from diffcore.demo.controls import controls_of
from diffcore.denoising.conditions import ClassCondition, ScalarCondition


def test_a_class_gets_a_menu_and_a_number_a_slider_with_the_quantiles_of_the_data():
    mass = ScalarCondition.measured("mass", torch.tensor([3.0, 1.0, 2.0]), "Da", levels=3)
    menu, slider = controls_of([ClassCondition("ring", ("<b>", "outer")), mass])
    assert (menu.kind, menu.choices) == ("menu", ("<b>", "outer"))
    assert (slider.kind, slider.quantiles, slider.unit) == ("slider", (1.0, 2.0, 3.0), "Da")
