"""The exceptions that a user can cause. The command line prints them without a traceback."""


class SfumatoError(Exception):
    """A mistake in the input: the message says what, the value, and the remedy."""


class ConfigError(SfumatoError, ValueError):
    """A recipe, a study file, an override or an argument of a component that is not valid."""


class DataError(SfumatoError):
    """A data source that is missing, unreadable or empty."""


class RunError(SfumatoError):
    """A run directory or a checkpoint that cannot be used as asked."""


class TrainingDiverged(RunError):
    """Training diverged, and again at a lower learning rate: a finding about the config."""


class Interrupted(SfumatoError):
    """The user or the cluster's scheduler stopped the run; it was saved and can be resumed."""
