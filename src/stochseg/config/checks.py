"""What a field of a config refuses, in one line that names its flag."""

from stochseg.errors import InputError


def require(holds: bool, flag: str, value: object, wanted: str) -> None:
    if not holds:
        raise InputError(f"--{flag} {value}: must be {wanted}")
