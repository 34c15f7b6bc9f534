"""The public names of the package."""

import sfumato


def test_every_public_name_exists_and_has_a_docstring() -> None:
    assert sorted(sfumato.__all__) == sorted(sfumato._HOME)
    for name in sfumato.__all__:
        assert getattr(sfumato, name).__doc__, name
