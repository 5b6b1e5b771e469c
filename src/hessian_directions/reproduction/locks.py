"""Who writes where: locks that the kernel keeps, and that end with their process, however it ends."""

import errno
import fcntl
import os
from pathlib import Path

from hessian_directions.errors import ArtifactError
from hessian_directions.files import AnyPath

# A file system without locks gives one to everybody.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def hold(path: AnyPath, wait: bool = False) -> int | None:
    """A lock on a file or folder that is there, until this process ends; None where another has it.

    Nothing is written: the file itself is locked. Programs that are started do not get it. Raises
    OSError where the path cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return descriptor


def is_held(path: AnyPath) -> bool:
    """Whether a process holds a file or folder that is there."""
    descriptor = hold(path)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def hold_results(folder: AnyPath) -> int:
    """Hold a folder of results, which is made where it is missing, for the only run that writes there.

    Raises ArtifactError where another run holds it, or it cannot be written to.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        # Whoever may write anywhere may not where the file system is read-only.
        probe = Path(folder) / ".writable"
        probe.touch()
        probe.unlink()
        descriptor = hold(folder)
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written to: {error.strerror}") from error
    if descriptor is None:
        raise ArtifactError(
            f"{folder} is being written by another run: wait for its end, or give the profile "
            "another name"
        )
    return descriptor
