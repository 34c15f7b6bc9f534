"""The run-time type checker of the test suite: annotations of the package are checked at calls."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""With the numeric tower of PEP 484: an int is a float."""
