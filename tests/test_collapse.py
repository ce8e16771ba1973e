import math

from rlhf_pg.collapse import CollapseMonitor


def test_collapse_warns_once_and_early():
    monitor = CollapseMonitor(None, "lower --learner.lr")
    assert monitor.check(0.7, 0.0) is None
    assert monitor.check(0.1, 0.1) is None
    assert "0.05 nats from 0.7 after 20%" in (monitor.check(0.05, 0.2) or "")
    assert monitor.check(0.01, 0.3) is None
    late = CollapseMonitor(None, "lower --learner.lr")
    late.check(0.7, 0.0)
    assert late.check(0.01, 0.6) is None


def test_collapse_of_real_valued_actions_is_a_tenfold_smaller_deviation():
    monitor = CollapseMonitor(2, "lower --learner.lr")
    monitor.check(1.0, 0.0)
    assert monitor.check(1.0 - 2 * math.log(9.9), 0.1) is None
    assert monitor.check(1.0 - 2 * math.log(10.1), 0.1)
