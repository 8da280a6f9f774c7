"""Pickles of PyTorch as plain data: nothing in them is imported, called or hashed.

The standard library takes a pickle apart (`pickletools.genops`); what its operations do is told here, for those alone
that `torch.load(weights_only=True)` knows. What an operation makes is at most as large as what was counted before, so
that memory and time are proportional to the pickle, whatever it says.
"""

import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from vit_flax.printing import shown, summed_up
from vit_flax.weights.formats.common import DTYPES, FileError, Spec, check_array
from vit_flax.weights.formats.names import Pairs

# Some sixty thousand tensors, and their names.
MAX_OPERATIONS = 2**21
MAX_BYTES = 2**26

STORAGES = {
    'Bool': 'bool', 'Byte': 'uint8', 'Char': 'int8', 'Short': 'int16', 'Int': 'int32', 'Long': 'int64',
    'Half': 'float16', 'BFloat16': 'bfloat16', 'Float': 'float32', 'Double': 'float64',
    'ComplexFloat': 'complex64', 'ComplexDouble': 'complex128', 'Untyped': 'uint8',
}  # fmt: skip
CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'EMPTY_TUPLE': ()}
# What is no array is never made, only named.
OPAQUE = {
    'torch.device': 'device', 'torch.serialization._get_layout': 'layout', '_codecs.encode': 'bytes',
    'builtins.bytearray': 'bytearray', 'builtins.set': 'set', 'builtins.complex': 'complex',
}  # fmt: skip
CONTAINERS = ('collections.OrderedDict', 'collections.Counter', 'torch.Size')
TENSORS = ('torch.Tensor', 'torch.nn.parameter.Parameter')
# What makes a tensor, and how many arguments it takes.
REBUILD = {
    'torch._utils._rebuild_tensor': (4, 4), 'torch._utils._rebuild_tensor_v2': (6, 7),
    'torch._utils._rebuild_tensor_v3': (7, 8), 'torch._utils._rebuild_parameter': (3, 3),
    'torch._utils._rebuild_parameter_with_state': (4, 4), 'torch._tensor._rebuild_from_type_v2': (4, 4),
}  # fmt: skip


@dataclass(frozen=True)
class Global:
    """The name of something in a module, such as `torch.float8_e5m2`."""

    name: str


@dataclass(frozen=True)
class Opaque:
    """Something that is no array."""

    kind: str


@dataclass(frozen=True)
class Storage:
    """One row of numbers in the file.

    Attributes:
      key: its name there.
      dtype: of its elements.
      size: how many the pickle says there are.
    """

    key: str
    dtype: np.dtype
    size: int

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


@dataclass(frozen=True)
class Tensor:
    """A view of a storage.

    Attributes:
      storage: whose bytes.
      spec: shape and dtype.
      offset, strides: in elements of its dtype.
    """

    storage: Storage
    spec: Spec
    offset: int
    strides: tuple[int, ...]

    def array(self, data: np.ndarray) -> np.ndarray:
        """The tensor in the bytes of its storage."""
        dtype = DTYPES[self.spec.dtype]
        strides = [stride * dtype.itemsize for stride in self.strides]
        if not self.spec.size:
            return np.empty(self.spec.shape, dtype)
        return np.ndarray(self.spec.shape, dtype, data.data, self.offset * dtype.itemsize, strides)


class Reader:
    """Reads one pickle after the other.

    Attributes:
      operations: how many were done.
      storages: those that were met, by key.
    """

    def __init__(self, path: Path):
        self.path = path
        self.operations = 0
        self.storages: dict[str, Storage] = {}

    def load(self, file: IO[bytes]) -> Any:
        """The next pickle: numbers, strings, `None`, lists, tuples, `Pairs`, and the classes above.

        Raises:
          FileError: it asks for anything else, or for too much.
          Exception: it is damaged; of whatever type.
        """
        stack: list[Any] = []
        outer: list[list[Any]] = []
        memo: dict[int, Any] = {}
        arg: Any
        begin = file.tell()
        for op, arg, _ in pickletools.genops(file):
            self.operations += 1
            if self.operations > MAX_OPERATIONS or file.tell() - begin > MAX_BYTES:
                raise FileError(f'{shown(self.path)}: refused: its pickle is too large for one of weights')
            match op.name:
                case 'PROTO':
                    pass
                case 'STOP':
                    if outer or len(stack) != 1:
                        raise ValueError('its pickle ends before all that it made is part of something')
                    return stack[0]
                case 'NONE' | 'NEWTRUE' | 'NEWFALSE' | 'EMPTY_TUPLE':
                    stack.append(CONSTANTS[op.name])
                case 'EMPTY_LIST':
                    stack.append([])
                case 'EMPTY_DICT':
                    stack.append(Pairs())
                case 'BININT' | 'BININT1' | 'BININT2' | 'LONG1' | 'BINFLOAT' | 'BINUNICODE':
                    stack.append(arg)
                case 'SHORT_BINSTRING':  # of Python 2
                    stack.append(arg.encode('latin-1').decode())
                case 'BINPUT' | 'LONG_BINPUT':
                    memo[arg] = stack[-1]
                case 'BINGET' | 'LONG_BINGET':
                    if arg not in memo:
                        raise ValueError(f'its pickle never made what it calls {arg}')
                    stack.append(memo[arg])
                case 'MARK':
                    outer.append(stack)
                    stack = []
                case 'TUPLE' | 'APPENDS' | 'SETITEMS':
                    items, stack = stack, outer.pop()
                    if op.name == 'TUPLE':
                        stack.append(tuple(items))
                    else:
                        _extend(stack[-1], items, pairs=op.name == 'SETITEMS')
                case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
                    items = [stack.pop() for _ in range(int(op.name[-1]))]
                    stack.append(tuple(reversed(items)))
                case 'APPEND':
                    item = stack.pop()
                    _extend(stack[-1], [item], pairs=False)
                case 'SETITEM':
                    value, key = stack.pop(), stack.pop()
                    _extend(stack[-1], [key, value], pairs=True)
                case 'GLOBAL':
                    stack.append(self._named(arg))
                case 'REDUCE':
                    args, function = stack.pop(), stack.pop()
                    stack.append(self._called(function, args))
                case 'BUILD':  # the attributes of an OrderedDict: `_metadata` of a state dict
                    stack.pop()
                    if not isinstance(stack[-1], Pairs):
                        raise FileError(f'{shown(self.path)}: refused: its pickle holds more than tensors')
                case 'BINPERSID':
                    stack.append(self._stored(stack.pop()))
                case _:
                    raise FileError(f'{shown(self.path)}: refused: its pickle holds more than tensors ({op.name})')
        raise EOFError('the pickle has no end')

    def _named(self, text: str) -> Global:
        name = text.replace(' ', '.').replace('__builtin__.', 'builtins.')
        known = (*OPAQUE, *CONTAINERS, *TENSORS, *REBUILD)
        module, _, last = name.rpartition('.')
        is_storage = module in ('torch', 'torch.cuda', 'torch.storage') and last.removesuffix('Storage') in STORAGES
        if name in known or is_storage or (module == 'torch' and last in DTYPES):
            return Global(name)
        raise FileError(
            f'{shown(self.path)}: refused: its pickle asks for {shown(name)}, which could run code or is no dense '
            'tensor; only those, numbers, strings and containers of them are read. Save model.state_dict() instead'
        )

    def _called(self, function: Any, args: Any) -> Any:
        name = function.name if isinstance(function, Global) else ''
        if name in OPAQUE:
            return Opaque(OPAQUE[name])
        if name in CONTAINERS:
            if not args:
                return () if name == 'torch.Size' else Pairs()
            (content,) = args
            if name == 'torch.Size' or isinstance(content, Pairs):
                return content
            self.operations += len(content)  # the same list may be asked for again and again
            return Pairs((key, value) for key, value in content)
        least, most = REBUILD.get(name, (0, -1))
        if not least <= len(args) <= most:
            raise FileError(
                f'{shown(self.path)}: refused: its pickle calls {name or "no function"} with {summed_up(args)}'
            )
        if name.startswith('torch._utils._rebuild_parameter'):
            if not isinstance(args[0], Tensor):
                raise TypeError('a parameter without a tensor')
            return args[0]
        if name == 'torch._tensor._rebuild_from_type_v2':  # a tensor with attributes
            inner, kind, inner_args, _ = args
            if not isinstance(kind, Global) or kind.name not in TENSORS or inner.name == name:
                raise FileError(f'{shown(self.path)}: refused: its pickle holds a tensor of a class of its own')
            return self._called(inner, inner_args)
        return self._tensor(name, *args)

    def _tensor(self, name: str, storage: Storage, offset: int, shape: Any, strides: Any, *more: Any) -> Tensor:
        dtype, metadata = storage.dtype, more[2:]  # behind requires_grad and backward_hooks
        if name.endswith('v3'):
            dtype, metadata = DTYPES[more[2].name.removeprefix('torch.')], more[3:]
        if any(metadata):
            raise FileError(f'{shown(self.path)}: refused: it holds a tensor that is conjugated or negated when read')
        spec = check_array(self.path, 'a tensor', shape, dtype.name)
        numbers = all(type(number) is int and 0 <= number < 2**63 for number in (offset, *strides))
        if not numbers or len(shape) != len(strides):
            raise FileError(
                f'{shown(self.path)} is damaged: a tensor begins at {summed_up(offset)}, strides {summed_up(strides)}'
            )
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if spec.size and (last + 1) * dtype.itemsize > storage.nbytes:
            raise FileError(
                f'{shown(self.path)}: refused: a tensor of shape {spec.shape} reaches to element {last} of a storage '
                f'of {storage.nbytes} bytes'
            )
        return Tensor(storage, spec, offset, tuple(strides))

    def _stored(self, reference: Any) -> Storage:
        tag, kind, key, _, size, *view = reference
        if tag != 'storage' or any(part is not None for part in view):
            raise FileError(f'{shown(self.path)}: refused: its pickle refers to more than storages')
        if type(key) is not str or type(size) is not int or not 0 <= size < 2**60 or not isinstance(kind, Global):
            raise FileError(f'{shown(self.path)} is damaged: storage {summed_up(key)} has {summed_up(size)} elements')
        name = kind.name.rpartition('.')[2].removesuffix('Storage')
        storage = Storage(key, DTYPES[STORAGES[name]], size)
        if self.storages.setdefault(key, storage) != storage:
            raise FileError(f'{shown(self.path)} is damaged: storage {shown(key)} is told of in two ways')
        return storage


def _extend(target: Any, items: list[Any], *, pairs: bool) -> None:
    if isinstance(target, Pairs) != pairs or not isinstance(target, list):
        raise TypeError('items for what holds none')
    target += zip(items[::2], items[1::2], strict=True) if pairs else items
