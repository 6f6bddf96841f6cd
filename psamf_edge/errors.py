"""The errors a user can meet. Each is one sentence: what was given, what is allowed, how to mend it."""


class PsamfError(Exception):
    """Base of all errors that psamf-edge raises on purpose. `exit_code` is what the command line ends with."""

    exit_code = 1


class InputError(PsamfError):
    """A clip, subtitle file or CSV row cannot be used. The other inputs of the same call go on."""

    exit_code = 1


class UsageError(PsamfError):
    """The call itself is wrong: an unknown modality, an option without its partner, a path that does not exist."""

    exit_code = 2


class MissingDependencyError(PsamfError):
    """The machine lacks something: a GPU, a driver, TensorRT, an optional package."""

    exit_code = 3


class IntegrityError(PsamfError):
    """A bundle or engine is not what its manifest says: a hash, a size, a schema version differs."""

    exit_code = 4
