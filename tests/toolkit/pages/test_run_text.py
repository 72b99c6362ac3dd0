"""Texts of the run page."""

from toolkit.pages.run_text import transform_facts


def test_training_transforms_are_listed_in_order_with_their_arguments():
    crop = {"__class_fullname__": "toolkit.RandomResizedCrop", "p": 1.0, "size": None, "scale": [0.25, 1.0]}
    turns = [{"__class_fullname__": "HorizontalFlip", "p": 0.5}, {"__class_fullname__": "Transpose", "p": 0.1}]
    recorded = {"transforms": [crop, {"__class_fullname__": "OneOf", "p": 0.7, "transforms": turns}]}
    assert transform_facts(recorded) == {
        "1. RandomResizedCrop": "p 1.0, scale [0.25, 1.0]",
        "2. OneOf": "p 0.7, HorizontalFlip (p 0.5), Transpose (p 0.1)",
    }
    assert transform_facts({"scale": [0.08, 1], "flip": 0.5, "degrees": 15})["degrees"] == 15
