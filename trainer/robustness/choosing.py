"""Decides which of the views that nobody named are judged together, so that few patients of one shrink no figure; reads no view."""

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

LEAST_SHARE = 0.9
"""Of the patients that a view which nobody named must hold: views are judged on patients that all of them hold."""
HOW = (
    "views are judged on patients that all of them hold, from the same files as the base's: extract the others, or name the view "
    "in the study's `trust`"
)


def too_few(
    found: Mapping[str, AbstractSet[str]], *, named: Mapping[str, AbstractSet[str]], cohort: AbstractSet[str]
) -> dict[str, str]:
    """Views that were found and are not to be taken, each with the reason, without a full stop.

    A view is taken that holds nine tenths of the cohort, and together with those taken before it nine tenths of what is left of
    the cohort by the named ones. Those that keep most patients are taken first, else in their order.

    Parameters
    ----------
    found
        Complete patients of each view that nobody named.
    named
        Of each view that somebody named: these are taken whatever they lack.
    cohort
        Who would be judged if no view lacked anybody.
    """
    of, left_out = len(cohort), dict[str, str]()
    joint = set(cohort).intersection(*named.values())
    least_alone, least = (math.ceil(LEAST_SHARE * size) for size in (of, len(joint)))
    waiting: dict[str, AbstractSet[str]] = {}
    for view, patients in found.items():
        mine = len(patients & cohort)
        if mine < least_alone:
            left_out[view] = f"holds what the row reads of {mine} of {of} patients, and {HOW}"
        else:
            waiting[view] = patients
    while waiting:
        view = max(waiting, key=lambda one: len(joint & waiting[one]))
        kept = len(joint & waiting[view])
        if kept < least:
            break
        joint &= waiting.pop(view)
    left_out |= {
        view: f"leaves {len(joint & patients)} of the {len(joint)} patients that the other views hold, of {of}, and {HOW}"
        for view, patients in waiting.items()
    }
    return left_out
