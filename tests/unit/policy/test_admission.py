"""Admission: who may move in, and how much of its limit a request will probably use."""

from common.policy.admission import OutputShare, may_move_in


def test_what_is_needed_at_once_must_be_there() -> None:
    assert may_move_in(lacking=4, available=4, growth=0, is_empty=False)
    assert not may_move_in(lacking=5, available=4, growth=0, is_empty=False)


def test_growth_keeps_others_out() -> None:
    assert may_move_in(lacking=4, available=10, growth=24, is_empty=False)
    assert not may_move_in(lacking=4, available=10, growth=25, is_empty=False)


def test_into_an_empty_pool_may_move_what_will_hardly_fit() -> None:
    assert may_move_in(lacking=4, available=4, growth=100, is_empty=True)


def test_unknown_requests_are_expected_to_use_all() -> None:
    share = OutputShare()
    share.observe(1, 100)

    assert share.expected(60) == 60


def test_the_share_is_learnt_from_those_that_ended() -> None:
    share = OutputShare()
    for num_output in (10, 20, 30, 40) * 4:
        share.observe(num_output, 100)

    assert share.expected(200) == 50


def test_at_least_one_token_is_expected() -> None:
    share = OutputShare()
    for _ in range(20):
        share.observe(1, 1000)

    assert share.expected(4) == 1
