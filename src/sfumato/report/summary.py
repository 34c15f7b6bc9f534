"""The result in plain words, saying no more than the verdicts do."""

import math

from sfumato.core.numbers import count, duration, interval, listed, number
from sfumato.runs.results import ArmRecord, MetricColumn, Results, ScoreRecord

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def best_arm(results: Results, metric: MetricColumn) -> str | None:
    """The arm that is shown to be better than every other one, if there is one."""
    names = {arm.name for arm in results.arms}
    beaten = _beaten(results, metric)
    for name in sorted(names):
        if len(names) > 1 and beaten.get(name, set()) >= names - {name}:
            return name
    return None


def summarize(results: Results) -> str:
    """What was done, which arm is best, and what is not shown."""
    sentences = [_what_was_done(results)]
    if results.metrics:
        main = results.metrics[0]
        sentences.append(_single(results, main) if len(results.arms) == 1 else _best(results, main))
        sentences += [_other(results, metric) for metric in results.metrics[1:]]
    else:
        sentences.append("Nothing was scored yet.")
    return " ".join(sentence for sentence in sentences if sentence)


def _what_was_done(results: Results) -> str:
    arms = _number_word(len(results.arms))
    noun = "model was" if len(results.arms) == 1 else "models were"
    data = results.data
    source = data.get("source") or data.get("name") or data.get("kind")
    where = f" on the {source} images" if source else ""
    size = f" ({count(data['train'])} of them)" if _is_count(data.get("train")) else ""
    budget = results.budget
    if _is_count(budget.get("images")):
        until = f", until each had seen {count(budget['images'])} images"
    elif _is_count(budget.get("steps")):
        until = f", for {count(budget['steps'])} optimizer steps each"
    elif _is_count(budget.get("seconds")):
        until = f", for {duration(budget['seconds'])} each"
    else:
        until = ""
    if len(results.arms) == 1:
        until = until.replace("each had", "it had").removesuffix(" each")
    seeds = f", with {len(results.seeds)} training seeds each" if len(results.seeds) > 1 else ""
    return f"{arms.capitalize()} {noun} trained{where}{size}{until}{seeds}."


def _single(results: Results, metric: MetricColumn) -> str:
    arm = results.arms[0]
    value = arm.mean(metric.key)
    if value is None:
        return f"It has no {metric.label} yet."
    reach = bounds(arm.runs[0].scores.get(metric.key)) if len(arm.runs) == 1 else ""
    details = [part for part in (f"95\u00a0% interval {reach}" if reach else "",
                                 ratio_to_floor(value, metric)) if part]  # fmt: skip
    aside = f" ({'; '.join(details)})" if details else ""
    return (
        f"It reaches a {metric.label} of {number(value)}{aside}. With one arm nothing is compared."
    )


def _best(results: Results, metric: MetricColumn) -> str:
    scored = {arm.name: arm.mean(metric.key) for arm in results.arms}
    values = {name: value for name, value in scored.items() if value is not None}
    if not values:
        return f"No arm has a {metric.label} yet."
    if not any(verdict.metric == metric.key for verdict in results.verdicts):
        pick = min if metric.better == "lower" else max
        name = pick(values, key=lambda name: values[name])
        return (
            f"“{name}” has the {'lowest' if metric.better == 'lower' else 'highest'} "
            f"{metric.label}, {number(values[name])}, but no verdict was computed: "
            "whether that is more than chance is not shown."
        )
    best = best_arm(results, metric)
    beaten = _beaten(results, metric)
    if best is not None:
        ratio = ratio_to_floor(scored[best], metric)
        also = f" ({ratio})" if ratio else ""
        rest = "the other" if len(results.arms) == 2 else "every other arm"
        return (
            f"“{best}” is best: its {metric.label} of {number(scored[best])}{also} is shown to be "
            f"{metric.better} than that of {rest}."
        )
    losers = set().union(*beaten.values()) if beaten else set()
    leaders = [name for name in values if name not in losers]
    leaders.sort(key=lambda name: values[name], reverse=metric.better == "higher")
    quoted = listed([f"“{name}” ({number(values[name])})" for name in leaders]) if leaders else ""
    if not losers or not leaders:
        return f"No arm is shown to be better than another by its {metric.label}."
    below = listed([f"“{arm.name}”" for arm in results.arms if arm.name in losers])
    if len(leaders) == 1:
        return (
            f"By {metric.label} no arm is shown to beat {quoted}, which is not shown to beat "
            f"every other one; {below} {'is' if len(losers) == 1 else 'are'} shown to be worse "
            "than at least one arm."
        )
    which = "which of the two is better" if len(leaders) == 2 else "which of them is best"
    by_all = all(losers <= beaten.get(leader, set()) for leader in leaders)
    both = "both" if len(leaders) == 2 else "all of them"
    # An arm whose seeds lie far apart may be among them with a bad score: it does not lead.
    place = "lead" if by_all else "are not shown to be worse than any other arm"
    return (
        f"By {metric.label}, {quoted} {place}, and {which} is not shown; {below} "
        f"{'is' if len(losers) == 1 else 'are'} shown to be worse than "
        f"{both if by_all else 'at least one other arm'}."
    )


def _other(results: Results, metric: MetricColumn) -> str:
    """One sentence on a further metric: its range, and real images beside it."""
    values = [v for v in (arm.mean(metric.key) for arm in results.arms) if v is not None]
    if not values:
        return ""
    if len(values) == 1 or number(min(values)) == number(max(values)):
        text = f"{metric.label} is {number(values[0])}"
    else:
        text = f"{metric.label} lies between {number(min(values))} and {number(max(values))}"
    real = f"; real images reach {number(metric.floor.value)}" if metric.floor else ""
    best = best_arm(results, metric)
    shown = f"; “{best}” is shown to be best" if best else ""
    return f"{text}{real}{shown}."


def _beaten(results: Results, metric: MetricColumn) -> dict[str, set[str]]:
    """For every arm the arms that it is shown to be better than."""
    beaten: dict[str, set[str]] = {}
    for verdict in results.verdicts:
        if verdict.metric == metric.key and verdict.verdict != "not shown":
            winner, loser = verdict.a, verdict.b
            if verdict.verdict == "worse":
                winner, loser = loser, winner
            beaten.setdefault(winner, set()).add(loser)
    return beaten


def _number_word(number: int) -> str:
    return _NUMBERS[number] if number < len(_NUMBERS) else str(number)


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def bounds(score: ScoreRecord | None) -> str:
    """The bounds of a score as "7.52 to 8.74", or nothing."""
    return interval(*score.interval) if score is not None and score.interval else ""


def ratio_to_floor(value: float | None, metric: MetricColumn) -> str:
    """Score / floor as "1.8 × floor", if lower is better and the floor is above 0."""
    if value is None or metric.better != "lower" or metric.floor is None:
        return ""
    floor = metric.floor.value
    if floor <= 0 or not math.isfinite(value):
        return ""
    ratio = value / floor
    return f"{ratio:.2g} × floor" if ratio < 99.5 else f"{ratio:,.0f} × floor"


def above_floor(value: float | None, metric: MetricColumn) -> str:
    """The score as its floor and the excess: "floor + 3.11", or "real images − 0.017"."""
    if value is None or metric.floor is None or not math.isfinite(value):
        return ""
    excess = value - metric.floor.value
    base = "floor" if metric.better == "lower" else "real images"
    return f"{base} {'+' if excess >= 0 else '−'} {number(abs(excess))}"


def spread(arm: ArmRecord, metric: str) -> str:
    """The interval of a single run, or the range of the scores over several seeds."""
    values = arm.values(metric)
    if len(values) > 1:
        return f"{len(values)} seeds: {number(min(values))} to {number(max(values))}"
    scores = [run.scores.get(metric) for run in arm.runs]
    return next((bounds(score) for score in scores if score is not None), "")
