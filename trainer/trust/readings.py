"""Says in plain words what a contrast between the base and a control shows, and what it does not; computes no figure."""

from trainer.results import ContrastResult
from trainer.stats import CHANCE
from trainer.trust.control_results import Permuted, Verdict
from trainer.trust.views import Standing, is_matched
from trainer.wording import p_text

LEVEL = 0.05
"""Of adjusted p-values, and of what intervals leave out."""


def verdict(found: ContrastResult, p_holm: float | None) -> Verdict:
    """What may be claimed: a difference only where the interval leaves out 0 and the adjusted p is at most 0.05."""
    if found.mean is None or not found.differences:
        return "incomplete"
    if not any(found.differences):
        return "equal"
    if p_holm is None or found.low is None or found.high is None:
        return "not told apart"
    if p_holm > LEVEL or found.low <= 0 <= found.high:
        return "not told apart"
    return "higher" if found.mean > 0 else "lower"


def reading(base: Standing, other: Standing, found: ContrastResult, told: Verdict, p_holm: float | None) -> str:
    """A contrast in words: what is shown, or that nothing is, with the interval."""
    claim = _claim(base, other)
    if told == "incomplete":
        return "A fit failed: nothing can be said."
    if told == "equal":
        return f"The same c in every fold: by c the base and {other.label} are one."
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
    if found.at_chance:
        return f"On permuted outcomes c is {found.mean:.3f}, within {found.band:.3f} of 0.5, as chance has it."
    return (
        f"On permuted outcomes c is {found.mean:.3f}, further than {found.band:.3f} from 0.5: something leaks, and no figure "
        "here is to be believed before it is found."
    )


def chance_reading(label: str, low: float | None, high: float | None) -> str:
    """Whether a row by itself tells patients apart."""
    if low is None or high is None:
        return ""
    told = f"{label[:1].upper()}{label[1:]} by itself"
    span = f"[95% {low:.3f} to {high:.3f}]"
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
