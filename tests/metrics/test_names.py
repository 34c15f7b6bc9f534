"""The names of metrics that people type."""

import re

import pytest

from sfumato.core.config import parse
from sfumato.core.errors import ConfigError
from sfumato.evaluation.protocol import EvaluationConfig
from sfumato.metrics import METRICS, find_metric


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("fid", "frechet_distance"),
        ("FID", "frechet_distance"),
        ("fd", "frechet_distance"),
        ("fid-infinity", "frechet_infinity"),
        ("kid", "kernel_distance"),
        ("KID", "kernel_distance"),
        ("is", "inception_score"),
        ("Inception-Score", "inception_score"),
        ("accuracy", "label_accuracy"),
        *((metric.key, metric.key) for metric in METRICS),
    ],
)
def test_an_alias_stands_for_the_key(name: str, key: str) -> None:
    assert find_metric(name).key == key


def test_no_two_metrics_share_a_name() -> None:
    names = [name for metric in METRICS for name in (metric.key, *metric.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("frechet_distanse", "frechet_distance"),
        ("kidd", "kernel_distance"),  # nearest to the alias "kid"; the message names the key
        ("precison", "precision"),
        ("label_acuracy", "label_accuracy"),
    ],
)
def test_the_message_names_the_nearest_metric(typed: str, nearest: str) -> None:
    expected = f"there is no metric {typed!r}; did you mean {nearest!r}? metrics: frechet_distance,"
    with pytest.raises(ValueError, match=re.escape(expected)):
        find_metric(typed)


def test_a_name_like_no_other_gets_the_list_alone() -> None:
    with pytest.raises(ValueError, match=r"no metric 'xyzzy'; metrics: frechet_distance, .*label"):
        find_metric("xyzzy")


def test_a_config_holds_keys_and_rejects_other_names() -> None:
    assert parse(EvaluationConfig, {"metrics": ["fid", "kid"]}, "test").metrics == (
        "frechet_distance",
        "kernel_distance",
    )
    with pytest.raises(ConfigError, match="did you mean 'recall'"):
        parse(EvaluationConfig, {"metrics": ["recal"]}, "test")
