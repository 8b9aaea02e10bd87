"""Decides what patients are called in a store, and filters texts before they leave a program; knows no image and no statistic.

A program holds one of the two filters, `PlainIds` or `Pseudonyms`, and passes whatever it writes, prints or raises through it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import ConfigDict, Field

from store_schema.commits import create_or_read
from store_schema.errors import EngramError, ObjectMissingError, UsageError
from store_schema.events import hide_with
from store_schema.files import folder_of, name_of, record_name, without_secret
from store_schema.keys import check_id
from store_schema.records import SCHEMA, Record, canonical_json, parse_record
from store_schema.redact import HIDDEN, redact

if TYPE_CHECKING:
    from store_schema.location import Location
    from store_schema.store import Store

KEY_VARIABLE = "ENGRAM_PSEUDONYM_KEY"
SHORTEST_KEY_BYTES = 16
HOW_TO_MAKE = 'python -c "import secrets; print(secrets.token_hex(32))"'
CODE_DIGITS = 20
"""Hex digits of a pseudonym: 80 bits, so that two of a million patients share one with a probability below 10⁻¹²."""
PSEUDONYM = re.compile(rf"p[0-9a-f]{{{CODE_DIGITS}}}(\.s[0-9a-f]{{{CODE_DIGITS}}})?", re.ASCII)
RULE_PATH = "runs/patient-ids/rule.json"
"""Record of a store, created once by the first run that writes into it."""
KEPT_SUFFIXES = (
    ".nii.gz",
    ".nii",
    ".nrrd",
    ".nhdr",
    ".mha",
    ".mhd",
    ".csv",
    ".tsv",
    ".parquet",
    ".yaml",
    ".yml",
    ".pt",
)
NAMES_OF_NOBODY = {"", "ct", "pet", "pt", "dicom"}
"""Names of folders that say nothing, and stand in texts as words."""
DICOM_UID = re.compile(r"(?<![\w.])[0-2](?:\.(?:0|[1-9]\d*)){5,}(?![\w.]*\d)")
"""Numbers by which hospitals name studies, series and images; versions and IP addresses have fewer parts."""
SHORTEST_ANYWHERE = 4
"""A shorter id, and one of hex digits alone, is replaced only where no letter or digit stands beside it."""


class IdRule(Record):
    """What the patients of a store are called; one store has one rule for good."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")
    patients: Literal["plain", "pseudonyms"]
    key_fingerprint: str | None = Field(default=None, pattern=r"^[0-9a-f]{16}$")
    """Tells two keys apart and gives neither away; None for plain ids."""


class PlainIds:
    """Patients by their own ids; texts lose secrets, and those for the store also the places of files on this machine."""

    rule = IdRule(patients="plain")

    def __init__(self) -> None:
        self._places: dict[str, str] = {}
        """What stands for a place in a record, by the place as a text may have it."""
        self._hidden_places: dict[str, str] = {}
        """What stands for it in a log."""
        self._known: dict[str, str] = {}
        """Replacement in a log by what it replaces, in small letters."""

    def key(self, patient: str, study: str | None = None) -> str:
        """PATIENT of the store: `patient`, or `patient.study`.

        Raises
        ------
        InvalidKeyError
            If it cannot be part of a store's key.
        """
        for kind, part in (("patient", patient), ("study", study)):
            if part is not None:
                check_id(kind, part)
        return check_id("patient", self.name(patient, study))

    def name(self, patient: str, study: str | None = None) -> str:
        """`key` without the question whether a store would take it: a table may have patients that no store has."""
        return patient if study is None else f"{patient}.{study}"

    def patient(self, patient: str) -> str:
        """What a person is called, whichever study is meant."""
        return patient

    def source(self, place: str) -> str:
        """How a record names a file."""
        return record_name(place)

    def know(self, *, patients: Iterable[str] = (), studies: Iterable[str] = (), places: Iterable[str] = ()) -> None:
        """Takes note of what texts may hold from now on, and lets no log of this program hold it."""
        hide_with(self.logged)
        # An id that no store takes is shown in ASCII by its error.
        ids = (form for one in (*patients, *studies) for form in (one.strip(), ascii(one.strip())[1:-1]))
        self._known |= {form.lower(): HIDDEN for form in ids if form}
        for place in places:
            self._places[without_secret(place)] = self.source(place)
            self._hidden_places |= {without_secret(place): f"{HIDDEN}{_format_of(place)}", folder_of(place): HIDDEN}
            self._know_file(place)

    def know_keys(self, keys: Iterable[str]) -> None:
        """Takes note of what the store calls its patients, whom no table of this program has to name."""
        self.know(patients=keys)

    def _know_file(self, place: str) -> None:
        name = name_of(place).lower()
        if name not in NAMES_OF_NOBODY:
            self._known[name] = f"{HIDDEN}{_format_of(place)}"

    def logged(self, text: str) -> str:
        """A text for a log that leaves this machine: it says no patient's id, and no place or name of a file."""
        hidden = _hidden(_replaced(redact(text), self._hidden_places, whole=True), self._known)
        return _at_home(DICOM_UID.sub(HIDDEN, hidden))

    def clean(self, text: str) -> str:
        """A text for people."""
        return redact(text)

    def recorded(self, text: str) -> str:
        """A text for the store: it says no place of this machine."""
        return _at_home(_replaced(redact(text), self._places))

    def filtered[T](self, act: Callable[[], T]) -> T:
        """What the call gives; an error that leaves it has its message cleaned, and brings nothing of what caused it."""
        try:
            return act()
        except (EngramError, OSError) as error:
            failure = self._cleaned(error)
            if failure is error:
                raise
        # Outside of the handler: else the error would carry the one that is to be hidden.
        raise failure

    def _cleaned(self, error: Exception) -> Exception:
        """The error itself where nothing of it is to be hidden."""
        text = str(error)
        cleaned = self.clean(text)
        return error if cleaned == text else type(error)(cleaned)


class Pseudonyms(PlainIds):
    """Patients, studies and files by codes that only a secret key can make again: HMAC-SHA256, the same on every machine.

    The key is never shown, recorded or pickled; a process that unpickles this takes it from its own environment.
    """

    def __init__(self, key: bytes) -> None:
        super().__init__()
        if len(key) < SHORTEST_KEY_BYTES:
            raise UsageError(
                f"the pseudonym key has {len(key)} bytes: expected at least {SHORTEST_KEY_BYTES} in {KEY_VARIABLE}. Make one with "
                f"`{HOW_TO_MAKE}`, and keep it: without it no later run names the same patients alike."
            )
        self._key = key
        self.rule = IdRule(patients="pseudonyms", key_fingerprint=self._fingerprint())

    def __reduce__(self) -> tuple[Callable[[], Pseudonyms], tuple[()]]:
        """No key and no id travels."""
        return Pseudonyms.from_environment, ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The filter with the key that the environment holds.

        Raises
        ------
        UsageError
            If it holds none, or one that is too short.
        """
        text = environment.get(KEY_VARIABLE, "").strip()
        if not text:
            raise UsageError(
                f"--pseudonymise needs a secret key in the environment variable {KEY_VARIABLE}, and there is none. Make one with "
                f"`{HOW_TO_MAKE}`, and keep it: without it no later run names the same patients alike."
            )
        return cls(text.encode("utf-8", "surrogateescape"))

    def key(self, patient: str, study: str | None = None) -> str:
        """PATIENT of the store: `p…`, or `p….s…`; any text may be pseudonymised."""
        return self.name(patient, study)

    def name(self, patient: str, study: str | None = None) -> str:
        """See `key`."""
        self.know(patients=[patient], studies=[] if study is None else [study])
        if study is None:
            return self.patient(patient)
        # the patient is part of it: equal study names of two patients must not look alike
        return f"{self.patient(patient)}.s{self._code('study', patient, study)}"

    def patient(self, patient: str) -> str:
        """`p` and 20 hex digits."""
        return f"p{self._code('patient', patient)}"

    def source(self, place: str) -> str:
        """`f`, 20 hex digits, and the suffix of the format."""
        return f"f{self._code('file', folder_of(place), name_of(place))}{_format_of(place)}"

    def know(self, *, patients: Iterable[str] = (), studies: Iterable[str] = (), places: Iterable[str] = ()) -> None:
        """Takes note of what must leave no text from now on."""
        hide_with(self.logged)
        # A pseudonym is no id that is to be hidden, should somebody key by pseudonyms twice.
        for one in patients:
            if one.strip():
                self._known |= {
                    one.strip().lower(): self.patient(one),
                    ascii(one.strip())[1:-1].lower(): self.patient(one),
                }
        self._known |= {one.strip().lower(): f"s{HIDDEN}" for one in studies if one.strip()}
        for place in places:
            self._places[without_secret(place)] = self.source(place)
            self._places[folder_of(place)] = f"f{self._code('folder', folder_of(place))}"
            self._know_file(place)

    def know_keys(self, keys: Iterable[str]) -> None:
        """See `PlainIds.know_keys`; a pseudonym may stand in any text."""

    def logged(self, text: str) -> str:
        """See `clean`."""
        return self.clean(text)

    def clean(self, text: str) -> str:
        """The text without secrets, and without any known id, place or name of a file."""
        hidden = _hidden(_replaced(redact(text), self._places, whole=True), self._known)
        return _at_home(DICOM_UID.sub(HIDDEN, hidden))

    def recorded(self, text: str) -> str:
        """See `clean`."""
        return self.clean(text)

    def derived_key(self, purpose: bytes) -> bytes:
        """32 bytes that only the key gives, others for each purpose; from them neither the key nor a pseudonym can be told.

        References
        ----------
        HKDF with SHA-256, no salt and one block of output: RFC 5869, sections 2.2 and 2.3.
        """
        extracted = hmac.new(bytes(hashlib.sha256().digest_size), self._key, hashlib.sha256).digest()
        return hmac.new(extracted, purpose + b"\x01", hashlib.sha256).digest()

    def _code(self, *parts: str) -> str:
        # One spelling of a letter with an accent, whichever way a table's program wrote it.
        message = canonical_json([unicodedata.normalize("NFC", part).strip() for part in parts])
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:CODE_DIGITS]

    def _fingerprint(self) -> str:
        code = hmac.new(self._key, b"engram pseudonym key", hashlib.sha256).digest()
        return hashlib.sha256(code).hexdigest()[:16]


def check_rule(location: Location, ids: PlainIds) -> bool:
    """Refuses ids of another rule than the store's; says whether the store has a rule yet.

    Raises
    ------
    UsageError
        If the store's patients are called in another way, or by another key.
    """
    try:
        data = location.get(RULE_PATH)
    except ObjectMissingError:
        return False
    there = parse_record(IdRule, data, where=f"{location.url}/{RULE_PATH}")
    if there != ids.rule:
        raise UsageError(f"{location.url} {_difference(there, ids.rule)}")
    return True


def settle_rule(store: Store, ids: PlainIds) -> None:
    """Makes the ids of the first run the rule of the store; a store that is older than its rule is judged by its entries.

    Raises
    ------
    UsageError
        If the store's patients are called in another way, or by another key.
    """
    if check_rule(store.location, ids):
        return
    other: Literal["plain", "pseudonyms"] = "plain" if ids.rule.patients == "pseudonyms" else "pseudonyms"
    if _holds(store, other):
        raise UsageError(f"{store.url} {_difference(IdRule(patients=other), ids.rule)}")
    if create_or_read(store.location, RULE_PATH, ids.rule.to_bytes()) is not None:
        check_rule(store.location, ids)


def _holds(store: Store, patients: Literal["plain", "pseudonyms"]) -> bool:
    """Whether a store has an entry of a patient that is called so."""
    names = {key.patient for view_id in store.view_ids() for key in store.keys(view_id)}
    return any(bool(PSEUDONYM.fullmatch(name)) == (patients == "pseudonyms") for name in names)


def _difference(there: IdRule, here: IdRule) -> str:
    if there.patients == here.patients:
        return (
            f"was written with another pseudonym key (fingerprint {there.key_fingerprint}, this one has {here.key_fingerprint}): "
            f"the same patient would stand in it twice. Set {KEY_VARIABLE} to the key of that store, or use another store."
        )
    if there.patients == "pseudonyms":
        return "holds pseudonyms, and plain ids must not get among them: give --pseudonymise with its key, or use another store."
    return "holds plain patient ids, and pseudonyms must not get among them: leave --pseudonymise out, or use another store."


def _format_of(place: str) -> str:
    """The suffix that says a file's format; any other may say more."""
    name = name_of(place).lower()
    return next((suffix for suffix in KEPT_SUFFIXES if name.endswith(suffix)), "")


def _replaced(text: str, places: Mapping[str, str], *, whole: bool = False) -> str:
    """The text with other names for places, the longest first; with `whole`, what follows a folder goes with it."""
    # A copy: another thread may come to know of more meanwhile.
    found = sorted((place for place in tuple(places) if len(place) > 1 and place in text), key=len, reverse=True)
    for place in found:
        if not whole:
            text = text.replace(place, places[place])
            continue
        rest = r"(?![\w.-])" if _is_file(place) else r"(?:/[^\s'\",;:)\]]*)?(?![\w.-])"
        text = re.sub(re.escape(place) + rest, places[place], text)
    return text


def _is_file(place: str) -> bool:
    return bool(_format_of(place))


def _hidden(text: str, known: Mapping[str, str]) -> str:
    """The text without what is known, whatever its capitals, the longest first and each place once."""
    folded = text.lower()
    # A copy: another thread may come to know of more meanwhile.
    found = sorted((one for one in tuple(known) if one in folded), key=len, reverse=True)
    if not found:
        return text
    pattern = "|".join(map(_pattern, found))
    return re.sub(pattern, lambda match: known.get(match[0].lower(), HIDDEN), text, flags=re.IGNORECASE)


def _pattern(known: str) -> str:
    """Where a known text counts: short ones and digits also stand in other words and in digests."""
    if len(known) >= SHORTEST_ANYWHERE and not re.fullmatch(r"[0-9a-f]+", known):
        return re.escape(known)
    return rf"(?<![^\W_]){re.escape(known)}(?![^\W_])"


def _at_home(text: str) -> str:
    """The text without the name of the user whose home it speaks of."""
    home = str(Path.home())
    return text.replace(f"{home}/", "~/") if home not in {"/", ""} else text
