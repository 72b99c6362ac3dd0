"""The options of export.predict, stated once in PredictOptions, as Python and the command line see them."""

import inspect
from dataclasses import fields

import pytest

from export.predict import predict
from export.predictions.options import PredictOptions
from toolkit.commandline.parameters import parameters_of


def test_predict_has_a_parameter_with_the_default_of_each_option():
    parameters = dict(inspect.signature(predict).parameters)
    assert list(parameters)[:5] == ["model", "images", "out", "device", "bs"]  # callers pass these by position
    for field in fields(PredictOptions):
        assert parameters.pop(field.name).default == field.default
    assert parameters.keys() == {"model", "images"}


def test_an_unknown_or_doubled_option_is_a_type_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'topp'"):
        predict("model.onnx", "photos", topp=3)
    with pytest.raises(TypeError, match="multiple values for argument 'out'"):
        predict("model.onnx", "photos", "p.csv", out="p.csv")
    with pytest.raises(TypeError, match="missing a required argument: 'images'"):
        predict("model.onnx")


def test_the_comment_of_an_option_is_its_help():
    found = {parameter.name: parameter for parameter in parameters_of(predict)}
    assert found["zip"].help == "also write the file into a .zip beside it"
    assert found["tta"].metavar == "{none,flip}"
    assert found["bs"].metavar == "int|auto"
    assert all(parameter.help for parameter in found.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "ray", "zip": True, "profile": True}, "leave out --zip, --profile"),
        ({"engine": "ray", "format": "csv"}, "--engine ray --format csv: it writes Parquet"),
        ({"actors": 2}, "--address, --share and --actors belong to --engine ray"),
        ({"out": "s3://bucket/p.csv"}, "s3://bucket/p.csv is a URI: only --engine ray"),
    ],
)
def test_an_option_of_the_other_engine_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        predict("model.onnx", "photos", **options)
