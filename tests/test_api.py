"""The public names: all there, imported late, and never hidden by a module of the same name."""

import subprocess
import sys

import pytest

import precisionlaws


@pytest.mark.parametrize("name", precisionlaws.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(precisionlaws, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nosuch'"):
        _ = precisionlaws.nosuch


def test_names_work_in_any_order_and_import_is_light() -> None:
    code = """
import sys, itertools
import precisionlaws as pl
assert not {'torch', 'numpy', 'pandas', 'hydra'} & set(sys.modules), 'import is not light'
import precisionlaws.sweep.points, precisionlaws.training.unit, precisionlaws.fitting, precisionlaws.planning
for name in pl.__all__:
    if name not in ('ptq', 'quant'):
        assert callable(getattr(pl, name)), name
assert 'points' in pl.sweep.api.sweep.__annotations__
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
