"""Writes down what a run was planned from, and tells a resumed run from another one; knows no result."""

import json
from datetime import UTC, datetime
from typing import Any

from store_schema.errors import AlreadyExistsError
from store_schema.files import name_of, without_secret
from store_schema.records import sha256
from trainer.pins import Pin
from trainer.plan import Plan, Recorded
from trainer.run_folder import COHORT, RUN, RunFolder, cohort_bytes, splits_name
from trainer.tables import shown
from trainer.versions import versions

LAYOUT = "engram-run-1"
INCIDENTAL = ("started_at", "clinical")
"""Facts of a run that decide no number."""


def keep_plan(plan: Plan, folder: RunFolder) -> None:
    """Write the plan's files, once; the same plan finds them as they are.

    Raises
    ------
    AlreadyExistsError
        If the folder holds another run; names what differs.
    """
    record = run_record(plan)
    stamped = {**record, "started_at": datetime.now(UTC).isoformat(timespec="seconds")}
    # the record comes first: whoever creates it owns the folder, and whoever resumes writes what is still missing
    if not folder.write_once(RUN, (json.dumps(stamped, indent=1, ensure_ascii=False) + "\n").encode()):
        _refuse_other(folder.read_json(RUN) or {}, record, folder)
    folder.keep(COHORT, cohort_bytes(plan.cohort))
    for number, splits in plan.splits.items():
        folder.keep(splits_name(number), splits.to_json().encode())


def recorded_pins(folder: RunFolder) -> Recorded | None:
    """What the folder's run reads; None where there is no run, or one without images."""
    record = folder.read_json(RUN) or {}
    if not record.get("store"):
        return None
    return Recorded(record["store"]["id"], {pin["view"]: pin["snapshot"] for pin in record["snapshots"]})


def run_record(plan: Plan) -> dict[str, Any]:
    """All that decides the numbers of a run, as JSON values."""
    return {
        "layout": LAYOUT,
        "config": _config_record(plan),
        "clinical": plan.ids.clean(name_of(plan.clinical)),
        # absent for plain ids, as in runs of engram 0.1, so that these resume
        **({"key_fingerprint": plan.ids.rule.key_fingerprint} if plan.ids.rule.key_fingerprint else {}),
        "cohort_sha256": plan.cohort_sha256,
        "splits_sha256": {str(number): digest for number, digest in plan.splits_sha256.items()},
        "oracle_sha256": {name: sha256(risk.tobytes()) for name, risk in plan.oracle.items()},
        "store": None if plan.store is None else {"url": plan.store.url, "id": plan.store.store_id},
        "snapshots": [_pin_record(pin) for pin in plan.pins],
        "versions": versions(),
    }


def _config_record(plan: Plan) -> dict[str, Any]:
    """The settings; an address in them without its secret."""
    record = plan.config.model_dump(mode="json")
    if record["oracle"] and record["oracle"]["table"]:
        record["oracle"]["table"] = without_secret(record["oracle"]["table"])
    return record


def _pin_record(pin: Pin) -> dict[str, Any]:
    return {
        "view": pin.snapshot.view_id,
        "named": pin.view,
        "snapshot": pin.snapshot.id,
        "entries": len(pin.snapshot),
        "trained": pin.snapshot.view.encoder.trained,
    }


def _refuse_other(earlier: dict[str, Any], record: dict[str, Any], folder: RunFolder) -> None:
    differing = _differences(_deciding(earlier), _deciding(record))
    if differing:
        raise AlreadyExistsError(
            f"{folder.url} holds another run: {shown(differing, 5)}. Use a new output folder, or the settings, table, "
            "snapshots and versions of that run"
        )


def _deciding(record: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in record.items() if name not in INCIDENTAL}
    store = kept.get("store")
    # the store's id decides, not the address by which it is reached
    return {**kept, "store": store["id"] if isinstance(store, dict) else store}


def _differences(there: Any, here: Any, place: str = "") -> list[str]:
    """Settings that differ, each with both values."""
    if isinstance(there, dict) and isinstance(here, dict):
        names = dict.fromkeys((*there, *here))
        parts = [(there.get(name), here.get(name), f"{place}.{name}".lstrip(".")) for name in names]
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        parts = [(old, new, f"{place}.{index}") for index, (old, new) in enumerate(zip(there, here, strict=True))]
    else:
        return [] if there == here else [f"{place} is {_brief(there)} there and {_brief(here)} here"]
    return [text for part in parts for text in _differences(*part)]


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
