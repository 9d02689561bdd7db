from __future__ import annotations

import pytest

from vactk.errors import VactkError
from vactk.text.templates import TEMPLATES, as_words, choose_templates


def test_open_vclip_has_28_templates():
    templates = choose_templates("openvclip")
    assert len(set(templates)) == 28
    assert templates[0].format("archery") == "a photo of archery."
    assert "a demonstration of a person practicing archery." in [t.format("archery") for t in templates]


def test_a_template_of_ones_own():
    assert choose_templates("a drawing of {}.") == ("a drawing of {}.",)


@pytest.mark.parametrize("name", ["{} and {}", "a {name}", "{", "}{"])
def test_a_template_needs_one_place_for_the_class(name):
    with pytest.raises(VactkError, match=r"exactly one \{\} for the class"):
        choose_templates(name)


def test_an_unknown_set_names_the_nearest():
    with pytest.raises(VactkError, match="did you mean 'openvclip'"):
        choose_templates("openvlcip")
    assert all("{}" in template for templates in TEMPLATES.values() for template in templates)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("HandstandPushups", "handstand pushups"),
        ("brush_hair", "brush hair"),
        ("YoYo", "yo yo"),
        ("TaiChi", "tai chi"),
        ("passing American football (in game)", "passing american football (in game)"),
        ("  arm  wrestling", "arm wrestling"),
        ("playing TV games", "playing tv games"),
        ("star moving left", "star moving left"),
    ],
)
def test_labels_become_words(label, words):
    assert as_words(label) == words
