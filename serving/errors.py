"""Everything Kennel raises on purpose, in one tree, so that HTTP and exit codes know whose turn it is.

    KennelError
      UserError                 fix your side; the message says how
        ConfigError               a setting
        DataError                 a folder of images
        InvalidInput              a picture or a request
        PayloadTooLarge           a request body over the limit
        UnsupportedContentType    a body of a kind nobody reads
        NotAcceptable             an answer of a kind nobody writes
        ModelNotFound             no model of that name is loaded
        ModelExists               one of that name is
        MapNotFound               the bundle cannot tell where the model looked
        PeerError                 another process of the run is gone, and says itself why
      CapacityError             try again
        QueueFull                 more waits than may wait
        NotReady                  the model is not loaded (yet)
        DeadlinePassed            it waited longer than an answer may take
      InternalError             our fault, or the bundle's
        BundleError               the artifact is missing, torn, tampered with or of another version
        EngineError               the engine failed on a batch
          OutOfMemory               for want of memory

Status codes stand in `serving/failures.py` alone, exit codes in the entrypoints alone.
"""


class KennelError(Exception):
    """Base of all errors raised on purpose; its text is one sentence for a person."""


class UserError(KennelError):
    """The caller can mend it."""


class ConfigError(UserError):
    """A setting has a wrong name or a wrong value."""


class DataError(UserError):
    """A folder of images cannot be used as it is."""


class InvalidInput(UserError):
    """A request, or the picture in it, cannot be read."""


class PayloadTooLarge(UserError):
    """A request body is over the limit."""


class UnsupportedContentType(UserError):
    """A request body is of a kind nobody here reads."""


class NotAcceptable(UserError):
    """The answer is wanted in a form nobody here writes."""


class ModelNotFound(UserError):
    """No model of that name is loaded."""


class ModelExists(UserError):
    """A model of that name is loaded already."""


class MapNotFound(UserError):
    """The bundle cannot tell where the model looked."""


class PeerError(UserError):
    """Another process of the run is gone or never came: a consequence, its own log has the cause."""


class CapacityError(KennelError):
    """Nothing is wrong with the request; later it will be answered."""


class QueueFull(CapacityError):
    """As many requests wait as may wait."""


class NotReady(CapacityError):
    """No model can answer at the moment."""


class DeadlinePassed(CapacityError):
    """The request waited longer than an answer may take."""


class InternalError(KennelError):
    """The caller can do nothing about it."""


class BundleError(InternalError):
    """The bundle is missing, incomplete, changed or of another version."""


class EngineError(InternalError):
    """The engine failed on a batch."""


class OutOfMemory(EngineError):
    """There is not enough memory for a model or a batch."""
