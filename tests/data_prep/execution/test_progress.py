"""What a run says of itself while it works and at its end."""

import time

from data_prep.execution.progress import repeated, shown
from data_prep.teachers.endpoint.budget import Budget, BudgetConfig
from data_prep.teachers.endpoint.meter import Meter, clock


def test_the_line_says_how_far_how_fast_and_what_it_costs():
    budget = Budget(BudgetConfig(price_input=1, price_output=1), spent=2.5)
    meter = Meter(records=250, rejected=3, total=1000, answered=500, prompt_tokens=9000, completion_tokens=1000)
    meter.budget, meter.started = budget, time.monotonic() - 100
    line = meter.line()
    for part in ("250 of 1000 records, 3 rejected", "5.0 requests/s, 100 tokens/s", "2.50 USD so far"):
        assert part in line
    assert "about 10.00 USD in all" in line
    assert "0:05:00 left" in line


def test_what_is_not_known_is_not_said():
    meter = Meter(records=5)
    assert meter.line() == "5 records, 0 rejected"
    assert meter.closing() == ""
    meter.budget = Budget(BudgetConfig(), 0)
    assert "USD" not in meter.line() + meter.closing()
    assert "left" not in meter.line()


def test_the_last_line_names_what_went_wrong_and_nothing_that_did_not():
    meter = Meter(answered=90, lost=4, uncertain=2, budget=Budget(BudgetConfig(), 0))
    meter.started = time.monotonic() - 100  # the rate of a run that has just begun may have any digits, 429 too
    assert "4 lost replies" in meter.closing()
    assert "2 perhaps paid twice" in meter.closing()
    assert "429" not in meter.closing()


def test_it_speaks_now_and_then_while_the_work_goes_on_and_not_after():
    said = []
    with repeated(0.02, lambda: said.append(1)):
        time.sleep(0.3)
    during = len(said)
    time.sleep(0.1)
    assert 5 <= during == len(said)


def test_away_from_a_terminal_a_short_run_shows_nothing(capsys):
    with shown("notes", Meter().line):
        pass
    assert capsys.readouterr().err == ""


def test_hours_minutes_and_seconds():
    assert clock(3661.9) == "1:01:01"
