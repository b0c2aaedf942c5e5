"""What holds a run back, in sentences; the figures are those of the made report."""

from __future__ import annotations

from typing import Any

from src.report.held_back import best_of, held_back, setting_words, speed, training_parts
from src.report.model.report import Report
from src.report.model.time import SettingsTried, TriedSetting
from src.report.verdict import verdict
from tests.report.page_report import full_report, times, typed

FULL = full_report(n_sessions=20, n_samples=5, n_records=3, n_charted=1)
ONE = {
    **{name: part for name, part in FULL.items() if name not in ("statistics", "advice")},
    "training": FULL["training"][:1],
}


def made(seconds: dict[str, float], cpu: float = 0.97, **more: Any) -> Report:
    """A report of one training with these seconds by part."""
    (member, *_), run = times(("base",), 1)["members"], times()["run"]
    own = {**member, "seconds": seconds, "cpu_s": {part: cpu * taken for part, taken in seconds.items()}}
    return typed({**ONE, "time": {"run": run, "members": [{**own, **more}], "settings": times()["settings"]}})


def one(setting: str = "hardware.learner", speedup: float = 1.5, low: float = 1.4, **more: Any) -> TriedSetting:
    of = {"setting": setting, "now": "stock", "tried": "fused", "speedup": speedup, "low": low, "high": 1.6}
    return TriedSetting.model_validate({**of, "changes_learning": False, **more})


def tried(*settings: TriedSetting, not_tried: str = "") -> SettingsTried:
    return SettingsTried(steps_per_s=1000.0, rounds=5, tried=list(settings), not_tried=not_tried, seconds=2.0)


def test_the_update_is_named_with_its_parts_and_the_share_of_the_bound() -> None:
    report = made(
        {"environment": 10.0, "matrix products": 60.0, "elementwise": 20.0, "set-up": 10.0}, bound_cpu_s=43.65
    )
    first, bound, setting = held_back(report)
    assert first == "The PPO update holds training back: 89% of its time (matrix products 75%, elementwise 25%)."
    assert bound == "Training runs at 50% of the speed of its matrix products alone."  # 43.65 / (0.97 * 90)
    assert setting.startswith("The setting that helps most: hardware.vectorized_envs 128 instead of 32 makes")
    assert training_parts(report) == [("PPO update", 80 / 90), ("environment", 10 / 90)]  # not the start


def test_an_environment_is_named_with_what_a_step_costs() -> None:
    """512,000 timesteps of 32 environments are 16,000 steps."""
    report = made({"environment": 160.0, "matrix products": 30.0, "policy": 10.0})
    assert held_back(report)[0] == (
        "The environment holds training back: 80% of its time. A step of 32 environments (the accounts) takes 10.0 ms, "
        "312 us a timestep."
    )
    own = report.model_copy(update={"configuration": {"environment": {"env_class": "my.module:Env"}}})
    assert "A step of 32 environments (my.module:Env) takes 10.0 ms" in held_back(own)[0]
    line = next(text for text in verdict(own) if text.startswith("Speed: "))
    assert line.count("my.module:Env") == 1


def test_the_verdict_does_not_repeat_the_bottleneck() -> None:
    report = made({"environment": 10.0, "matrix products": 90.0})
    assert [*speed(report)] == held_back(report)[1:]
    assert sum("holds training back" in text for text in verdict(report)) == 0
    assert sum("Bottleneck: PPO update (90% of training time" in text for text in verdict(report)) == 1


def test_other_programs_are_named_where_the_update_waited_for_a_processor() -> None:
    seconds = {"environment": 10.0, "matrix products": 90.0}
    busy = "Other programs held it up: the update had a processor for 60% of its time."
    assert busy in held_back(made(seconds, cpu=0.6))
    assert not [line for line in held_back(made(seconds, cpu=0.95)) if "Other programs" in line]


def test_only_a_setting_that_surely_helps_is_recommended() -> None:
    assert best_of([one(low=0.99)]) is None
    assert best_of([one(speedup=1.04, low=1.03)]) is None
    best = one("hardware.vec_env", 1.6)
    assert best_of([one(), best]) == best


def test_a_gain_that_changes_the_policy_must_be_twice_as_large() -> None:
    same = one(speedup=1.2, low=1.1)
    other = one("hardware.batch_size", 1.39, changes_learning=True)
    assert best_of([same, other]) == same
    more = one("hardware.batch_size", 1.41, changes_learning=True)
    assert best_of([same, more]) == more
    assert "but it trains a different policy." in setting_words(tried(same, more))


def test_every_outcome_of_a_trial_has_its_words() -> None:
    assert setting_words(None) == "No other settings were tried."
    assert setting_words(tried(not_tried="too short")) == "No other settings were tried: too short."
    assert setting_words(tried(one(speedup=1.0, low=0.9))) == (
        "No setting that was tried makes training clearly faster (hardware.learner fused)."
    )
    assert setting_words(tried(one())) == (
        "The setting that helps most: hardware.learner fused instead of stock makes training 1.50 times as fast (1.40 "
        "to 1.60 in 5 rounds)."
    )


def test_a_report_without_times_says_nothing_of_them() -> None:
    assert held_back(typed({name: part for name, part in FULL.items() if name != "time"})) == []
