"""The table of a network: its layers, what they return, their parameters and their work."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch.nn import Module
from torch.nn.parameter import is_lazy

from companion.nn.ode_block import ODEBlock
from companion.nn.trace import Call, Fields, trace
from companion.text_table import text_table

#: Sizes along the axes; None where it depends on the size of the batch.
Shape = tuple[int | None, ...]

_HEADERS = ("Layer (type)", "Output shape", "Param #", "Multiply-adds", "Receptive field")
_RIGHT = (2, 3, 4)


@dataclass(frozen=True)
class Row:
    """One call of one layer; in an ODE block, all of them.

    Attributes:
        name: Its name in the network, such as ``features.0``; empty for the network itself.
        kind: The name of its class.
        calls: How often it was called: 0 where the network does not call it at all, and more than
            1 within an :class:`~companion.nn.ODEBlock`, whose solver evaluates its field.
        outputs: The shapes of the tensors that it returns, in order.
        parameters: The number of its own parameters that no row above has counted.
        trainable: Those of them that require a gradient.
        shared: The number of its own parameters that a row above has counted.
        multiply_adds: Its own, for one sample: products of matrices and convolutions; of all
            these calls.
        receptive_field: Of its outputs, vertically and horizontally; None where it is not an image,
            or where paths have joined on the way from the input.
    """

    name: str
    kind: str
    calls: int
    outputs: tuple[Shape, ...]
    parameters: int
    trainable: int
    shared: int
    multiply_adds: int
    receptive_field: Fields | None

    @property
    def called(self) -> bool:
        """Whether the network calls it at all."""
        return self.calls > 0


@dataclass(frozen=True, repr=False)
class Summary:
    """The table of a network; printing it, or showing it in a notebook, lays it out.

    Attributes:
        model: The name of the network's class.
        input_shape: The shape of one sample.
        rows: The calls of its layers, in the order in which they ended, and then those layers with
            parameters that were never called.
        parameters: The number of all parameters, each counted once.
        trainable: Those of them that require a gradient.
        parameter_bytes: The memory that the parameters take.
        trainable_bytes: The memory that the trainable ones take.
        buffers: The number of values in buffers, such as running statistics.
        multiply_adds: Those of all rows, for one sample.
    """

    model: str
    input_shape: tuple[int, ...]
    rows: tuple[Row, ...]
    parameters: int
    trainable: int
    parameter_bytes: int
    trainable_bytes: int
    buffers: int
    multiply_adds: int

    @property
    def non_trainable(self) -> int:
        """The number of parameters that require no gradient."""
        return self.parameters - self.trainable

    def __repr__(self) -> str:
        headers, rows = self._table()
        table = text_table(headers, rows, _RIGHT)
        return f"{self._title()}\n\n{table}\n\n" + "\n".join(self._totals())

    def _repr_html_(self) -> str:
        headers, rows = self._table()

        def line(tag: str, style: str, cells: Sequence[str]) -> str:
            sides = ("right" if k in _RIGHT else "left" for k in range(len(cells)))
            styled = (
                f'<{tag} style="text-align: {side}{style}">{html.escape(cell)}</{tag}>'
                for side, cell in zip(sides, cells, strict=True)
            )
            return f"<tr>{''.join(styled)}</tr>"

        body = "\n".join(line("td", "; white-space: nowrap", row) for row in rows)
        totals = "<br>\n".join(map(html.escape, self._totals()))
        # The class is pandas', which notebooks and the themes of books know how to lay out.
        return (
            f"<p>{html.escape(self._title())}</p>\n"
            f'<table class="dataframe">\n<thead>{line("th", "", headers)}</thead>\n'
            f"<tbody>\n{body}\n</tbody>\n</table>\n<p>{totals}</p>"
        )

    def _title(self) -> str:
        return f"{self.model}, input {_shape((None, *self.input_shape))}"

    def _table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        rows = [
            (
                _layer(row),
                _outputs(row),
                _parameters(row),
                f"{row.multiply_adds:,}",
                _fields(row.receptive_field),
            )
            for row in self.rows
        ]
        if any(row.receptive_field for row in self.rows):
            return _HEADERS, rows
        return _HEADERS[:-1], [row[:-1] for row in rows]

    def _totals(self) -> Iterator[str]:
        fixed = self.parameter_bytes - self.trainable_bytes
        yield f"Total params: {self.parameters:,} ({_memory(self.parameter_bytes)})"
        yield f"Trainable params: {self.trainable:,} ({_memory(self.trainable_bytes)})"
        yield f"Non-trainable params: {self.non_trainable:,} ({_memory(fixed)})"
        if self.buffers:
            yield f"Buffers, such as running statistics: {self.buffers:,}"
        yield f"Multiply-adds for one sample: {self.multiply_adds:,}"


def summary(model: Module, input_shape: Sequence[int], *, channels_last: bool = False) -> Summary:
    """Tell the layers of a network, what they return, their parameters and their work.

    The network is run on tensors that have a shape and nothing else, which takes no memory and
    next to no time.  Only a network that needs numbers, to decide what to do, is run on zeros.
    It is left as it was found: in its mode, on its device, without hooks.

    A module that is called twice has two rows, and the parameters of the second are told to be
    shared.  A module that is made of others has a row of its own where it has parameters, or does
    multiply-adds, that none of them has.  The layers of an ODE block's field have one row each, for
    all evaluations; how many there are depends on the solver, and may depend on the input, which is
    zero here.  An axis whose size depends on that of the batch is None.

    Args:
        model: Any module that takes one floating-point tensor.
        input_shape: The shape of one sample, without the axis of the batch: ``(3, 224, 224)``.
        channels_last: Whether shapes of images are read and told in the order of Keras, height,
            width, channels.  The network itself takes its channels first as ever.

    Returns:
        The rows and the totals.

    Raises:
        TypeError: The model is no module, or the shape is not a sequence of integers.
        ValueError: The shape is not positive, the network does not take such an input, or its
            parameters do not have a shape yet.

    Example:
        >>> import torch
        >>> print(summary(torch.nn.Conv2d(3, 10, 5), (200, 200, 3), channels_last=True))
        Conv2d, input (None, 200, 200, 3)
        <BLANKLINE>
        Layer (type)  Output shape          Param #  Multiply-adds  Receptive field
        ------------  --------------------  -------  -------------  ---------------
        (Conv2d)      (None, 196, 196, 10)      760     28,812,000                5
        <BLANKLINE>
        Total params: 760 (2.969 KiB)
        Trainable params: 760 (2.969 KiB)
        Non-trainable params: 0 (0 B)
        Multiply-adds for one sample: 28,812,000
    """
    shape = _checked(model, input_shape)
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper calls no hooks
    if channels_last and len(shape) == 3:
        shape = (shape[2], *shape[:2])
    calls = _folded(model, trace(model, (1, *shape)))
    rows = _rows(model, calls, _shapes(model, shape, calls))
    if channels_last:
        rows = [replace(row, outputs=tuple(map(_to_channels_last, row.outputs))) for row in rows]
    parameters = list(model.parameters())
    trainable = [p for p in parameters if p.requires_grad]
    return Summary(
        model=type(model).__name__,
        input_shape=tuple(input_shape),
        rows=tuple(rows),
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in trainable),
        parameter_bytes=sum(p.nbytes for p in parameters),
        trainable_bytes=sum(p.nbytes for p in trainable),
        buffers=sum(buffer.numel() for buffer in model.buffers()),
        multiply_adds=sum(row.multiply_adds for row in rows),
    )


def _checked(model: Module, input_shape: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(model, Module):
        raise TypeError(f"model is of type {type(model).__name__}, expected a torch.nn.Module")
    if not isinstance(input_shape, Sequence) or not all(type(n) is int for n in input_shape):
        raise TypeError(
            f"input_shape is {input_shape!r}, expected integers, such as (3, 224, 224): "
            "the shape of one sample, without the axis of the batch"
        )
    if not all(n > 0 for n in input_shape):
        raise ValueError(f"input_shape is {input_shape!r}, expected positive sizes")
    lazy = [name for name, p in model.named_parameters() if is_lazy(p)]
    if lazy:
        raise ValueError(
            f"parameter {lazy[0]!r} of {type(model).__name__} has no shape yet; "
            "call the network once with an input"
        )
    return tuple(input_shape)


def _folded(model: Module, calls: list[Call]) -> list[Call]:
    """The same, but for each module in the field of an ODE block one call for all of its."""
    blocks = [module for module in model.modules() if isinstance(module, ODEBlock)]
    repeated = {module for block in blocks for module in block.f.modules()}
    folded: list[Call] = []
    places: dict[Module, int] = {}
    for call in calls:
        place = places.setdefault(call.module, len(folded)) if call.module in repeated else None
        if place is None or place == len(folded):
            folded.append(call)
        else:
            folded[place] = folded[place] + call
    return folded


def _shapes(model: Module, shape: tuple[int, ...], calls: list[Call]) -> list[tuple[Shape, ...]]:
    """The shapes of all outputs, with None for each size that changes with that of the batch."""
    try:
        others = _folded(model, trace(model, (2, *shape)))
    except ValueError:  # a network for batches of one
        others = calls
    if _structure(others) != _structure(calls):  # one that takes its samples one by one
        others = calls
    return [
        tuple(
            tuple(n if n == m else None for n, m in zip(one, two, strict=True))
            for one, two in zip(call.shapes, other.shapes, strict=True)
        )
        for call, other in zip(calls, others, strict=True)
    ]


def _structure(calls: list[Call]) -> list[tuple[Module, list[int]]]:
    """Which module was called when, and the ranks of what it returned."""
    return [(call.module, list(map(len, call.shapes))) for call in calls]


def _rows(model: Module, calls: list[Call], shapes: list[tuple[Shape, ...]]) -> list[Row]:
    names = {module: name for name, module in model.named_modules()}
    called = {call.module for call in calls}
    never = [Call(module, (), 0, None, calls=0) for module in names if module not in called]
    counted: set[int] = set()
    rows = []
    for call, outputs in zip([*calls, *never], [*shapes, *(() for _ in never)], strict=True):
        own = {id(p): p for p in call.module.parameters(recurse=False)}
        leaf = next(call.module.children(), None) is None
        if not (own or call.multiply_adds or (leaf and call.module in called)):
            continue
        new = [p for key, p in own.items() if key not in counted]
        counted |= own.keys()
        parameters = sum(p.numel() for p in new)
        rows.append(
            Row(
                name=names[call.module],
                kind=type(call.module).__name__,
                calls=call.calls,
                outputs=outputs,
                parameters=parameters,
                trainable=sum(p.numel() for p in new if p.requires_grad),
                shared=sum(p.numel() for p in own.values()) - parameters,
                multiply_adds=call.multiply_adds,
                receptive_field=call.fields,
            )
        )
    return rows


def _to_channels_last(shape: Shape) -> Shape:
    return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape


def _shape(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _layer(row: Row) -> str:
    kind = row.kind if row.calls <= 1 else f"{row.kind}, {row.calls} calls"
    return f"{row.name} ({kind})" if row.name else f"({kind})"


def _outputs(row: Row) -> str:
    if not row.called:
        return "not called"
    return ", ".join(map(_shape, row.outputs)) or "no tensor"


def _parameters(row: Row) -> str:
    if not row.shared:
        return f"{row.parameters:,}"
    return f"{row.parameters:,} + {row.shared:,} shared" if row.parameters else "shared"


def _fields(fields: Fields | None) -> str:
    if fields is None:
        return "-"
    vertical, horizontal = (field.size for field in fields)
    return f"{vertical}" if vertical == horizontal else f"{vertical} x {horizontal}"


def _memory(count: int) -> str:
    """A number of bytes in the unit that leaves it below 1024."""
    if count < 1024:
        return f"{count} B"
    amount, units = count / 1024, iter(("KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while amount >= 1024:
        amount, unit = amount / 1024, next(units)
    return f"{amount:.4g} {unit}"
