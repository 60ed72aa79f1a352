"""When so many of so many are too many to be chance, for figures that are looked at every second.

A test for one look, such as Wilson's interval, is wrong more and more often the more often it is asked. So `exceeds`
bets instead: the evidence against "the mean is at most the limit" is the gain of somebody who bets on larger means. If
the limit is kept the gain is a supermartingale, and the chance that it EVER reaches 1/ALPHA is at most ALPHA, however
often one looks and whenever one stops (Ville 1939; Wald 1945 for one bet, Robbins 1970 for a mixture of them;
Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2024, for values from 0 to 1).
"""

from __future__ import annotations

import math

ALPHA = 5e-4  # the chance of a false alarm of one rule in one step, at most
ROUNDING = 1e-9  # sums of shares are floats
LIKELY = 0.3  # the same for a single second of figures
DEVIATIONS = 2.5  # for the bound of what is compared with, one-sided: wrong by chance in 0.6 % of the looks
# The means that are bet on, as factors of the limit's odds; equal stakes. From "hardly above" to "nearly always".
_BETS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 1000.0)


def exceeds(total: float, trials: int, limit: float, alpha: float = ALPHA) -> bool:
    """Whether values from 0 to 1, which make `total` in `trials`, have a mean above `limit`; wrong by chance `alpha`.

    Each value must come independently of those before; within that they may be anything, 0 and 1 or between.
    """
    total = min(total, trials)
    if limit <= 0 or limit >= 1:
        return limit <= 0 and total > ROUNDING * trials
    gains = [_log_gain(total, trials, limit, bet) for bet in _BETS]
    best = max(gains)
    return best + math.log(sum(math.exp(gain - best) for gain in gains)) >= math.log(len(_BETS) / alpha)


def fewest(limit: float, alpha: float = ALPHA) -> int:
    """So many values, all of them 1, it takes to exceed the limit; none if nothing exceeds it."""
    if limit >= 1:
        return 0
    few, many = 0, 1
    while not exceeds(many, many, limit, alpha):
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if exceeds(middle, middle, limit, alpha) else (middle, many)
    return many


def upper_bound(hits: int, trials: int) -> float:
    """A rate that the true one is hardly above: Wilson's score bound (1927), `DEVIATIONS` wide; 1 without trials."""
    hits, square = min(hits, trials), DEVIATIONS**2
    if trials <= 0:
        return 1.0
    rate = hits / trials
    spread = DEVIATIONS * math.sqrt(rate * (1 - rate) / trials + square / (4 * trials * trials))
    return min(1.0, max(rate, (rate + square / (2 * trials) + spread) / (1 + square / trials)))


def differs_upward(hits: int, trials: int, other_hits: int, others: int) -> bool:
    """Whether the first rate is above the second by two standard errors of a pooled difference; so is any, of nothing.

    For one look only: it keeps a finding from being one, and makes none a breach.
    """
    if not trials or not others:
        return hits > 0
    pooled = min(1.0, (hits + other_hits) / (trials + others))
    error = math.sqrt(pooled * (1 - pooled) * (1 / trials + 1 / others))
    return hits / trials - other_hits / others > 2 * error


def _log_gain(total: float, trials: int, limit: float, bet: float) -> float:
    """The logarithm of the likelihood ratio between the mean that is bet on and the limit.

    For values between 0 and 1 it is less than what is fair, by the inequality of the means.
    """
    return total * math.log(bet) - trials * math.log1p((bet - 1) * limit)
