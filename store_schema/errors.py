"""Every error Engram raises, grouped by what a caller can do about it; knows nothing of who raises them.

    EngramError
    ├── UsageError            the call is wrong: nothing was done                     exit status 2
    │   ├── ConfigError       a setting is unknown, missing or out of range
    │   ├── InvalidKeyError   a patient, modality, ROI, view or run id is malformed
    │   └── TableError        a study or clinical table cannot be read as declared
    ├── StudyError            one study cannot be used: the others go on              exit status 1
    │   ├── ImageError        an image is unreadable or its voxels are not what was declared
    │   ├── GeometryError     grids, orientations or fields of view do not fit together
    │   ├── MaskError         a mask is empty or not a mask
    │   └── IntensityError    units are unknown or contradict the values
    ├── WeightsError          a checkpoint does not load strictly or is not the one named
    ├── CohortError           patients, times or events do not allow the analysis
    ├── TaskError             a unit of work of a run failed
    └── StoreError
        ├── StoreNotFoundError      no store at this address
        ├── NotCommittedError       no commit lists this view, entry, snapshot or run
        ├── ObjectMissingError      a commit lists an object that is not there
        ├── ObjectAlteredError      an object is there and its bytes are not those committed
        │   └── ObjectTruncatedError    … since it ends too soon
        ├── AlreadyExistsError      a create-only name is taken by other content
        ├── EntryWithdrawnError     the entry was withdrawn and must not be used
        ├── SchemaError             the store, or a record in it, is of another schema
        └── BackendError            the file system or object storage failed

Every class takes one message, so that each pickles and crosses process borders unchanged.
"""


class EngramError(Exception):
    """Base of every error that Engram raises on purpose."""


class UsageError(EngramError):
    """The call is wrong and nothing was done."""


class ConfigError(UsageError):
    """A setting is unknown, missing or out of range."""


class InvalidKeyError(UsageError):
    """A patient, modality, ROI, view or run id is malformed."""


class TableError(UsageError):
    """A study or clinical table cannot be read as declared."""


class StudyError(EngramError):
    """One study cannot be used; the others go on."""


class ImageError(StudyError):
    """An image is unreadable, or its voxels are not what was declared."""


class GeometryError(StudyError):
    """Grids, orientations or fields of view do not fit together."""


class MaskError(StudyError):
    """A mask is empty or is not a mask."""


class IntensityError(StudyError):
    """Intensity units are unknown or contradict the values."""


class WeightsError(EngramError):
    """A checkpoint does not load strictly, or is not the one that was named."""


class CohortError(EngramError):
    """Patients, times or events do not allow the analysis."""


class TaskError(EngramError):
    """A unit of work of a run failed."""


class StoreError(EngramError):
    """The feature store refused or could not answer."""


class StoreNotFoundError(StoreError):
    """No store at this address."""


class NotCommittedError(StoreError):
    """No commit lists this view, entry, snapshot or run."""


class ObjectMissingError(StoreError):
    """A commit lists an object that is not there."""


class ObjectAlteredError(StoreError):
    """An object is there and its bytes are not those that were committed."""


class ObjectTruncatedError(ObjectAlteredError):
    """An object is there and is shorter than what was committed."""


class AlreadyExistsError(StoreError):
    """A create-only name is taken by other content."""


class EntryWithdrawnError(StoreError):
    """The entry was withdrawn and must not be used."""


class SchemaError(StoreError):
    """The store, or a record in it, is of another schema."""


class BackendError(StoreError):
    """The file system or object storage failed."""
