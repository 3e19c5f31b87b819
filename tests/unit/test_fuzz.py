"""The fuzz targets accept their seeds, so fuzzing can start from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_targets_accept_their_seeds(name: str) -> None:
    """Each target parses or refuses each of its seeds."""
    target = TARGETS[name]
    seeds = list(target.seeds())
    assert seeds
    for seed in seeds:
        assert len(seed) <= target.longest
        target.call(seed)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore::UserWarning")
@given(st.data())
def test_targets_accept_changed_seeds(name: str, data: st.DataObject) -> None:
    """Each target also parses or refuses seeds that are cut short, or continued with other bytes."""
    seed = data.draw(st.sampled_from(list(TARGETS[name].seeds())))
    TARGETS[name].call(seed[: data.draw(st.integers(0, len(seed)))] + data.draw(st.binary(max_size=8)))
