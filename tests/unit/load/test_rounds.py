"""Interleaving and the figures that come of it."""

from __future__ import annotations

from pipeline.load.rounds import Contestant, Rounds, Spread, interleave, turns


def test_rounds_go_there_and_back_and_then_start_one_further() -> None:
    assert ["".join(order) for order in turns(["a", "b", "c"], 7)] == ["abc", "cba", "bca", "acb", "cab", "bac", "abc"]


def test_nobody_runs_after_the_same_peer_more_often_than_before_it() -> None:
    sequence = "".join("".join(order) for order in turns(["a", "b", "c"], 6))
    after = [sequence.count(pair) for pair in ("ab", "ba", "ac", "ca", "bc", "cb")]
    assert max(after) - min(after) <= 1


def test_contestants_run_interleaved_and_their_figures_keep_the_order_of_rounds() -> None:
    ran: list[tuple[str, int]] = []

    def contestant(name: str, weight: float) -> Contestant:
        def run(number: int) -> dict[str, float]:
            ran.append((name, number))
            return {"rate": weight * (number + 1)}

        return run

    told: list[str] = []
    rounds = interleave({"a": contestant("a", 1), "b": contestant("b", 10)}, 3, told.append)
    assert ran == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("b", 2), ("a", 2)]
    assert told[0] == "round 1 of 3: a"
    assert rounds.values("a", "rate") == [1, 2, 3]
    assert rounds.values("b", "rate") == [10, 20, 30]


def test_a_ratio_is_taken_within_each_round() -> None:
    # The machine was ten times slower in the second round: ratios of medians would say 5.05 / 11.
    rounds = Rounds(
        {
            "ours": ({"rate": 10.0}, {"rate": 0.875}, {"rate": 7.5}),
            "peer": ({"rate": 20.0}, {"rate": 1.0}, {"rate": 10.0}),
        }
    )
    assert rounds.ratio("ours", "peer", "rate") == Spread(0.75, 0.5, 0.875)


def test_what_a_contestant_is_above_others_is_taken_within_each_round() -> None:
    rounds = Rounds(
        {
            name: tuple({"p50_ms": v} for v in values)
            for name, values in {"s": (6.0, 9.0), "e": (3.0, 5.0), "m": (1.0, 1.0)}.items()
        }
    )
    assert rounds.above("s", ["e", "m"], "p50_ms") == Spread(2.5, 2.0, 3.0)
