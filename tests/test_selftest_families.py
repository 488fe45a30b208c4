"""The self-test's sequences, pixels and separable convolutions."""

import numpy as np
import pytest

import numbadw as ndw
from numbadw import __main__ as commands
from numbadw.selftest import check, families

FUNCTIONS = {
    "sequences": "depthwise_conv1d_grad",
    "pixels": "pointwise_conv2d",
    "separable": "separable_conv2d",
}


@pytest.mark.parametrize("family", families.FAMILIES)
def test_calls_are_right_and_follow_from_their_numbers(family):
    texts = [families.draw(family, seed, 3).text for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    assert [check.fault_of_family(family, 0, number) for number in range(4)] == [""] * 4


@pytest.mark.parametrize("family", families.FAMILIES)
def test_what_is_wrong_is_found_and_made_again(family, monkeypatch, capsys):
    real = getattr(ndw, FUNCTIONS[family])

    def wrong(*arguments, **options):
        results = real(*arguments, **options)
        array = results[1] if isinstance(results, tuple) else results
        array[(0,) * array.ndim] += np.float32(0.01)
        return results

    monkeypatch.setattr(ndw, FUNCTIONS[family], wrong)
    again = ["selftest", "--case", f"{family}:2"]
    assert commands.main(again) == 1
    printed = capsys.readouterr().out
    assert f"again: python -m numbadw selftest --seed 0 --case {family}:2\n" in printed
    assert families.draw(family, 0, 2).text in printed
    monkeypatch.undo()
    assert commands.main(again) == 0
