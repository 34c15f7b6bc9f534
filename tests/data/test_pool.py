"""What comes back from packing processes: plain values, and errors as callers tell them apart."""

import errno
from collections import Counter

import pytest

from data.failing_job import Failing
from sfumato.core.errors import DataError
from sfumato.data.chunk import Chunk, Header
from sfumato.data.pool import run_ranges


def test_answers_and_errors_cross_the_pipe() -> None:
    found = list(run_ranges(Failing(None), [(2, 5)], lambda _: Header(), lambda a, _: a, 1))
    assert found == [(2, 5, Header(Counter({(4, 6): 3}), 2))]
    for error, kind, words in (
        (OSError(errno.ENOSPC, "No space left on device"), OSError, "No space left"),
        (DataError("it ends early"), DataError, "^it ends early$"),
        (ValueError("odd"), RuntimeError, "^ValueError: odd$"),
    ):
        with pytest.raises(kind, match=words) as caught:
            list(run_ranges(Failing(error), [(0, 1)], lambda _: Header(), lambda a, _: a, 1))
        assert getattr(caught.value, "errno", None) == getattr(error, "errno", None)


def test_a_chunk_is_the_same_after_json() -> None:
    chunk = Chunk({7: ("tiny", "2x2 pixels")}, {"grey": [3]}, ["00"])
    assert Chunk.from_json(chunk.to_json()) == chunk
