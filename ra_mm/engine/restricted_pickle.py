"""Unpickle checkpoints with an allow-list, for PyTorch before 2.4.

``torch.load(weights_only=True)`` is as strict there, but it accepts tensors only. See
:mod:`ra_mm.engine.pickle_guard` for what an allow-list protects from. Delete this
module when PyTorch 2.4 becomes the oldest version that ra_mm supports.
"""

import codecs
import os
import pickle
import types
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch


class ForbiddenGlobal(pickle.UnpicklingError):
    """A pickle names a class or function that is not in the allow-list.

    Its one argument is that name, with the module.
    """


def load_restricted(
    path: str | os.PathLike, map_location: Any, allowed: Sequence[Callable]
) -> Any:
    """:func:`torch.load` that calls nothing but what is allowed.

    Args:
        path: The file.
        map_location: The device for its tensors.
        allowed: Classes and functions that a file may call by their ``__module__``
            and ``__qualname__``, besides those that rebuild tensors.

    Raises:
        pickle.UnpicklingError: If the file would do more than that.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if any(name.endswith('/constants.pkl') for name in file.namelist()):
                raise pickle.UnpicklingError('a TorchScript archive is a program')

    named = {f'{f.__module__}.{f.__qualname__}': f for f in allowed}

    class Unpickler(_Unpickler):
        by_name = _tensor_globals() | named

    def load(file, **kwargs):
        return Unpickler(file, **kwargs).load()

    module = types.SimpleNamespace(Unpickler=Unpickler, load=load, __name__=__name__)
    return torch.load(path, map_location, pickle_module=module, weights_only=False)


def _tensor_globals() -> dict[str, Any]:
    from torch._weights_only_unpickler import _get_allowed_globals

    dtypes = {str(v): v for v in vars(torch).values() if isinstance(v, torch.dtype)}
    # As in newer versions of PyTorch. NumPy arrays hold their bytes as an encoded
    # string, and MultiStepLR its milestones as a Counter.
    plain = {f'builtins.{t.__name__}': t for t in (bytearray, complex, set)}
    plain |= {'_codecs.encode': codecs.encode, 'collections.Counter': Counter}
    return _get_allowed_globals() | dtypes | plain | {'torch.device': torch.device}


def _checked(opcode):
    """Return the method of an opcode, with a check of what it calls or fills."""
    load = pickle._Unpickler.dispatch[opcode[0]]

    def load_checked(self):
        value = self.stack[-2]
        called = type(value) if opcode == pickle.BUILD else value
        if not any(called is allowed for allowed in self.by_name.values()):
            raise ForbiddenGlobal(getattr(called, '__qualname__', repr(called)))
        load(self)

    return load_checked


class _Unpickler(pickle._Unpickler):  # in Python: the one in C cannot be restricted
    """Calls, instantiates and fills what is in ``by_name``, and nothing else.

    Checking names alone would not do: a pickle may also call what a permitted
    call has returned.
    """

    by_name: dict[str, Any]
    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)
    for _opcode in (
        *(pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.PERSID),
        *(pickle.EXT1, pickle.EXT2, pickle.EXT4),
    ):
        del dispatch[_opcode[0]]  # torch.save does not write these

    def find_class(self, module: str, name: str) -> Any:
        # torch.save writes the names of Python 2, such as __builtin__.
        default = IMPORT_MAPPING.get(module, module), name
        full_name = '.'.join(NAME_MAPPING.get((module, name), default))
        if full_name not in self.by_name:
            raise ForbiddenGlobal(full_name)
        return self.by_name[full_name]

    def load_binpersid(self):
        pid = self.stack[-1]
        kinds = (('storage',), (b'storage',))
        if not isinstance(pid, tuple) or pid[:1] not in kinds:
            raise pickle.UnpicklingError('a persistent ID that is not of a storage')
        super().load_binpersid()

    dispatch[pickle.BINPERSID[0]] = load_binpersid
    for _opcode in (pickle.REDUCE, pickle.NEWOBJ, pickle.BUILD):
        dispatch[_opcode[0]] = _checked(_opcode)
