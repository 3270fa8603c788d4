"""Damaged files of every format are read, or refused with a line that helps; no crash, no hang, no print.

Users' files end early, have headers edited by hand, and sizes that no file of theirs can hold; the libraries
that read them end the process over some of that. `fuzz.py` makes more examples than these.
"""

import fuzz
import pytest

EXAMPLES = 200


def test_the_formats_are_those_that_there_are_seeds_of():
    from fuzz_seeds import KINDS

    assert list(KINDS) == fuzz.FORMATS


@pytest.mark.slow
@pytest.mark.parametrize("kind", fuzz.FORMATS)
def test_damaged_files_are_read_or_refused(kind):
    found = fuzz.run(kind, EXAMPLES, seed=2)
    assert found.problems == []
    assert found.examples == EXAMPLES
    assert found.kinds["opened"] > EXAMPLES // 20
    assert found.kinds.total() - found.kinds["opened"] > EXAMPLES // 5
