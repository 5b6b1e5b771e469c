"""A mode that sees every operation of a program."""

from torch.utils._python_dispatch import TorchDispatchMode


class Watching(TorchDispatchMode):
    """A dispatch mode that leaves PyTorch's compiler alone.

    Others import it with their first operation, a second of a process, and pass through it with
    every one. Programs that are watched run eagerly.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
