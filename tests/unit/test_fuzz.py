"""What is fuzzed holds for what it begins with, so that whatever is found is found later."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_seeds(name: str) -> None:
    """Each input to begin with is one that its target understands or refuses."""
    target = TARGETS[name]
    seeds = list(target.seeds())
    assert seeds
    for seed in seeds:
        assert len(seed) <= target.longest
        target.call(seed)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore::UserWarning")
@given(st.data())
def test_beginnings(name: str, data: st.DataObject) -> None:
    """So is each that breaks off, or ends in something else."""
    seed = data.draw(st.sampled_from(list(TARGETS[name].seeds())))
    TARGETS[name].call(seed[: data.draw(st.integers(0, len(seed)))] + data.draw(st.binary(max_size=8)))
