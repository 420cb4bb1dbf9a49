"""Every cost model of conf/cost: it loads, says where its numbers are from, and costs 1 at 16 bits."""

from pathlib import Path

import numpy as np
import pytest

from precisionlaws.planning import costs


@pytest.mark.parametrize("name", costs.names())
def test_every_model_is_relative_to_16_bits_and_never_falls_with_bits(name: str) -> None:
    one = costs.cost(name)
    P = np.arange(2.0, 17.0)
    for c in (one.relative, one.served):
        assert c(np.array(16.0)) == 1.0
        assert (np.diff(c(P)) >= 0).all()
        assert (c(P) > 0).all()
        assert np.imag(c(P + 1e-30j)).shape == P.shape
    assert one.says
    assert one.source
    assert all(row.source and row.unit and row.speed > 0 for row in one.table)


def test_hardware_runs_other_widths_at_the_next_larger() -> None:
    one = costs.cost("a100_int")
    assert one.steps == (4, 8, 16)
    assert not one.smooth
    assert list(one.relative(np.array([2.0, 4, 4.5, 8, 9, 16]))) == [0.25, 0.25, 0.5, 0.5, 1, 1]


def test_weights_alone_save_nothing_in_training() -> None:
    one = costs.cost("weights_only")
    assert one.roles == ("w",)
    assert one.relative(np.array(4.0)) == 1.0
    assert one.served(np.array(4.0)) == 0.25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("says: a\nsource: b\ntraining: magic\n", "rules are bits, none, table"),
        ("says: a\nsource: b\ntraining: bits\nroles: [x]\n", "roles are w, a, kv"),
        ("says: a\nsource: b\ntraining: table\n", "one row of 16 bits"),
        ("says: a\nsource: b\ntraining: bits\nprice: 3\n", "unknown key.*price"),
        ("says: a\ntraining: bits\n", "lacks source"),
    ],
)
def test_a_file_that_is_no_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setattr(costs, "_conf", lambda: tmp_path)
    costs.cost.cache_clear()
    with pytest.raises(ValueError, match=message):
        costs.cost("mine")
    costs.cost.cache_clear()
