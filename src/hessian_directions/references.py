"""Objects of a user's own code, named in a configuration as "package.module:name".

A name before the colon that ends in ``.py`` is the path of a file: "path/to/my_net.py:MyNet".
Modules, and what they import, are looked for as Python does it for a script in the folder of the
configuration: first in that folder, then in the working folder, then on Python's path; for a file
before all in the folder that it is in.
"""

import importlib
import inspect
import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hessian_directions.errors import ConfigurationError, HessianDirectionsError

# Folders of users that modules have been imported from.
_folders: list[Path] = []


def resolve(name: str, folder: Path | None = None) -> Any:
    """The object that `name` names.

    Args:
        name: "package.module:object", or "path/to/file.py:object"; an object may be an attribute of
            another one, as in "module:Class.method".
        folder: Of the configuration; None: the working folder alone.

    Raises:
        ConfigurationError: `name` has another form, the module cannot be imported, or it holds no
            such object. For an error in the user's module the message ends with its file and line.
    """
    module_name, _, attribute = name.rpartition(":")
    if not module_name or not attribute:
        raise ConfigurationError(
            f"{name!r} is not of the form package.module:name or path/to/file.py:name"
        )
    folders, module_name = located(module_name, folder)
    try:
        _put_first(folders, module_name)
        module = importlib.import_module(module_name)
    # Whatever the user's module does when it is imported.
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{name} cannot be imported: {describe(error)}") from error
    found: Any = module
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise ConfigurationError(
            f"{name} cannot be imported: {module.__file__ or module_name} has no {attribute}"
        ) from error
    return found


def located(place: str, folder: Path | None = None) -> tuple[list[Path], str]:
    """The folders where a module is looked for, and its dotted name.

    Args:
        place: "package.module" or "path/to/file.py"; "~/" is the user's home.
        folder: Of the configuration; None: the working folder alone.

    Raises:
        ConfigurationError: There is no such file.
    """
    folders = list(dict.fromkeys(Path(where).resolve() for where in (folder or "", "")))
    if not place.endswith(".py"):
        return folders, place
    path = Path(place).expanduser()
    file = next((f / path for f in folders if (f / path).is_file()), None)
    if file is None:
        raise ConfigurationError(f"there is no file {place} in {folders[0]}")
    root, name = _importable(file.resolve())
    # What lies beside it comes first, then what any module of the configuration can import.
    return list(dict.fromkeys([root, *folders])), name


def parameters(function: Any) -> Collection[str]:
    """Names that a function's or class's signature takes as keywords; none where it has no signature."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return ()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [key for key, parameter in signature.parameters.items() if parameter.kind in named]


def describe(error: BaseException) -> str:
    """Kind and first line of an error, and where in the user's files it arose."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    if isinstance(error, HessianDirectionsError) and lines:
        text = lines[0]
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if any(Path(frame.filename).is_relative_to(folder) for folder in _folders)
        and not Path(frame.filename).is_relative_to(Path(__file__).parent)
        and "site-packages" not in Path(frame.filename).parts
    ]
    return f"{text} ({own[-1].filename}, line {own[-1].lineno})" if own else text


@contextmanager
def failing(
    kind: type[HessianDirectionsError],
    sentence: str,
    passed: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """What a user's code raises as an error of ours: a sentence that ends with what `describe` says.

    Errors of the kinds in `passed` say enough themselves.
    """
    try:
        yield
    except passed:
        raise
    except Exception as error:
        raise kind(f"{sentence}: {describe(error)}") from error


def _importable(file: Path) -> tuple[Path, str]:
    """The folder and the dotted name that a file is imported from and by, packages around it included."""
    names, root = [file.stem], file.parent
    while (root / "__init__.py").is_file():
        names.insert(0, root.name)
        root = root.parent
    return root, ".".join(names)


def _put_first(folders: list[Path], module_name: str) -> None:
    """Let Python look for modules in these folders before all others."""
    sys.path[:] = [*map(str, folders), *(entry for entry in sys.path if Path(entry) not in folders)]
    _folders.extend(folder for folder in folders if folder not in _folders)
    _forget(folders)
    importlib.invalidate_caches()
    top = module_name.partition(".")[0]
    file, loaded = _find(folders, top), _file(top)
    if file is not None and top in sys.modules and loaded != file:
        raise ImportError(
            f"another module {top} is imported already, from {loaded or 'Python itself'}: "
            f"rename {file}"
        )


def _forget(folders: list[Path]) -> None:
    """Drop modules of other users' folders whose names these folders have, too.

    Two configurations may each have their own ``net.py``; Python would give the second one the
    module of the first.
    """
    for top in {name for name in sys.modules if "." not in name}:
        file, loaded = _find(folders, top), _file(top)
        if file is None or loaded is None or loaded == file:
            continue
        if any(loaded == _find([other], top) for other in _folders):
            for name in [n for n in sys.modules if n.partition(".")[0] == top]:
                del sys.modules[name]


def _find(folders: list[Path], top: str) -> Path | None:
    """Where a module or package of this name lies in the first of these folders that has it."""
    files = (folder / end for folder in folders for end in (f"{top}/__init__.py", f"{top}.py"))
    return next((file for file in files if file.is_file()), None)


def _file(top: str) -> Path | None:
    file = getattr(sys.modules.get(top), "__file__", None)
    return None if file is None else Path(file).resolve()
