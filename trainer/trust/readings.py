"""Says in plain words what a contrast between the base and a control shows, and what it does not; computes no figure."""

from trainer.results import ContrastResult, Row
from trainer.stats import CHANCE
from trainer.trust.control_results import Permuted, Tuned, Verdict
from trainer.trust.views import Standing, is_matched
from trainer.wording import chosen_text, p_text

LEVEL = 0.05
"""Of adjusted p-values, and of what intervals leave out."""


def unlike(base: Row, other: Row) -> str | None:
    """Why the c of two rows may not be compared, as they were tuned; None where they may."""
    if "paper" in (base.tuned, other.tuned):
        return (
            "settings were chosen on the very folds that are reported (OPTIMISTIC), so that the difference is one of the luckiest "
            "settings, and its interval and p do not hold. Choose inside the training folds (search: mode: nested)"
        )
    if base.tried != other.tried:
        return (
            f"the base is the best of {base.tried} settings and the other the best of {other.tried}, so that more differs than the "
            "view. Search what both views can use"
        )
    return None


def verdict(found: ContrastResult, p_holm: float | None, apart: str | None = None) -> Verdict:
    """What may be claimed: a difference only where the interval leaves out 0 and the adjusted p is at most 0.05.

    Parameters
    ----------
    apart
        Why the two may not be compared at all, as `unlike` says it.
    """
    if found.mean is None or not found.differences:
        return "incomplete"
    if not any(found.differences):
        return "equal"
    if apart is not None:
        return "no verdict"
    if p_holm is None or found.low is None or found.high is None:
        return "not told apart"
    if p_holm > LEVEL or found.low <= 0 <= found.high:
        return "not told apart"
    return "higher" if found.mean > 0 else "lower"


def reading(
    base: Standing,
    other: Standing,
    found: ContrastResult,
    told: Verdict,
    p_holm: float | None,
    *,
    apart: str | None = None,
) -> str:
    """A contrast in words: what is shown, or that nothing is, with the interval; and how its rows were tuned."""
    tuning = "" if not found.note else f" {found.note[:1].upper()}{found.note[1:]}."
    return f"{_shown(base, other, found, told, p_holm=p_holm, apart=apart)}{tuning}"


def _shown(
    base: Standing, other: Standing, found: ContrastResult, told: Verdict, *, p_holm: float | None, apart: str | None
) -> str:
    claim = _claim(base, other)
    if told == "incomplete":
        return "A fit failed: nothing can be said."
    if told == "equal":
        return f"The same c in every fold: by c the base and {other.label} are one."
    if told == "no verdict":
        return f"No verdict: {apart}. It is not shown that {claim}, nor that it is not so."
    if told == "not told apart":
        return f"Not told apart: {_why_not(found, p_holm)}. It is not shown that {claim}, nor that it is not so."
    figures = f"c {'higher' if told == 'higher' else 'lower'} by {abs(found.mean or 0.0):.3f}{_span(found)}"
    if told == "higher":
        return f"{claim[:1].upper()}{claim[1:]}: {figures}, adjusted p {p_text(p_holm)}."
    return f"The base does worse than {other.label}: {figures}, adjusted p {p_text(p_holm)}. Find out why before either is used."


def permuted_reading(found: Permuted) -> str:
    """What the base does on outcomes that were dealt to patients at random."""
    if found.mean is None:
        return "A fit failed: nothing can be said."
    chosen = chosen_text(found.tried, found.tuned)
    told = f"On permuted outcomes c is {found.mean:.3f}{f' ({chosen})' if chosen else ''}"
    if found.is_best_of_several and found.mean > CHANCE:
        return (
            f"{told}. The best of several lies above 0.5 by the choice alone, how far is not known here: hold c of the base "
            "against it, and not against 0.5. Whether anything leaks is not told by it."
        )
    if found.at_chance:
        return f"{told}, within {found.band:.3f} of 0.5, as chance has it."
    return (
        f"{told}, further than {found.band:.3f} from 0.5: something leaks, and no figure here is to be believed before it "
        "is found."
    )


def chance_reading(
    label: str, low: float | None, high: float | None, *, tuned: Tuned | None = None, tried: int = 1
) -> str:
    """Whether a row by itself tells patients apart; of one that was tuned on the reported folds nothing is said."""
    if low is None or high is None:
        return ""
    told = f"{label[:1].upper()}{label[1:]} by itself"
    span = f"[95% {low:.3f} to {high:.3f}]"
    if tuned == "paper":
        return f"{told}: {span}, {chosen_text(tried, tuned)}. Chosen so, c lies above 0.5 by chance alone: no verdict."
    if low > CHANCE:
        return f"{told}: above chance {span}."
    if high < CHANCE:
        return f"{told}: below chance {span}; look for what turns it round."
    return f"{told}: not told from chance {span}."


def _claim(base: Standing, other: Standing) -> str:
    """What a higher c of the base would show, as the rest of "it is shown that"."""
    if other.role == "encoder":
        if is_matched(base.view, other.view):
            return "memory adds to what the image encoder alone tells of the same slices"
        return f"memories tell more than the {other.label}, which are not the slices that the memories are of"
    if other.role in ("random_boxes", "elsewhere"):
        return f"where the boxes lie adds to what {other.label} tell"
    if other.role == "constant":
        return "what the image shows adds to the sizes and places of boxes, the number of slices and the volume's mean grey value"
    if other.role == "ablation":
        return f"{base.label.removeprefix('base: ')} does better than {other.label}"
    return f"the base does better than {other.label}"


def _why_not(found: ContrastResult, p_holm: float | None) -> str:
    if found.low is None or found.high is None:
        return "one fold alone has no interval"
    if p_holm is None:
        return f"the difference is {found.mean:+.3f} in every fold, which no test can judge"
    told = f"the base's c is between {_side(found.low)} and {_side(found.high)}"
    if found.low <= 0 <= found.high:
        return told
    return f"{told}, but adjusted for the other contrasts p is {p_text(p_holm)}"


def _side(value: float) -> str:
    return f"{abs(value):.3f} {'lower' if value < 0 else 'higher'}"


def _span(found: ContrastResult) -> str:
    """The interval, in the direction that the words before it give."""
    if found.low is None or found.high is None or found.mean is None:
        return ""
    ends = sorted((abs(found.low), abs(found.high)))
    return f" [95% {ends[0]:.3f} to {ends[1]:.3f}]"
