"""Phases for the magnitudes of a short-time Fourier transform: integrated from their gradients, then made consistent.

The transforms are those of `torch.stft`: centred, with Hann windows.
"""

import math
from collections.abc import Callable

import numpy
import torch
from numpy import ndarray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from torch import Tensor

_GAUSSIAN = 0.25645
"""The Gaussian e^(-pi t^2 / g) nearest to a Hann window of n samples has g = 0.25645 n^2 (Prusa et al. 2017)."""

_FAINTEST = 1e-4
"""Cells that are more than 80 dB below the loudest cell of a sound get no phase."""

_COLUMNS = 512
"""Columns whose phases are integrated at once, which bounds the memory for long sounds."""


def integrated_phases(magnitudes: Tensor, fft: int, hop: int) -> Tensor:
    """The phases of a transform with the `magnitudes` `[B, F, columns]`, up to a constant for each part of a sound.

    For a Gaussian window, the gradient of the phase p follows from that of the logarithm s of the magnitude (Prusa,
    Balazs, Sondergaard 2017, equations 18 and 19), with g as in `_GAUSSIAN`, m the frequency and n the column:

        dp/dn = 2 pi hop m / fft + (hop fft / g) ds/dm
        dp/dm = -pi - (g / (hop fft)) ds/dn

    Here -pi is the phase of a pulse at the centre of the window, which begins fft / 2 samples earlier. The gradient is
    integrated from cell to cell along paths that are as loud as possible, because it is inaccurate where cells are
    faint. The heap integration of that paper takes cells one after another for this. Here the paths are those of a
    maximum spanning tree of the graph of neighbouring cells, whose edges have the mean level of their two cells,
    because there is compiled code for such trees. Each connected part of a sound has phase 0 at its loudest cell, and
    so have cells below `_FAINTEST`.
    """
    phases = numpy.zeros(magnitudes.shape)
    for sound, found in zip(magnitudes.double().cpu().numpy(), phases, strict=True):
        loudest = sound.max(initial=0.0)
        if loudest > 0:
            levels = numpy.log(numpy.maximum(sound / loudest, _FAINTEST / 10))
            _integrate(levels, found, fft, hop)
    return torch.from_numpy(phases).to(magnitudes)


def _integrate(levels: ndarray, phases: ndarray, fft: int, hop: int) -> None:
    """Set the `phases` `[F, columns]` of a sound with these logarithms of magnitudes, relative to its loudest cell."""
    ratio = hop / (_GAUSSIAN * fft)
    turning = 2 * math.pi * hop / fft * numpy.arange(len(levels))[:, None]
    gradients = -math.pi - _slope(levels, 1) / ratio, turning + _slope(levels, 0) * ratio
    for start in range(0, max(levels.shape[1] - 1, 1), _COLUMNS):
        part = (slice(None), slice(start, start + _COLUMNS + 1))  # the last column is the first one of the next part
        _integrate_part(levels[part], (gradients[0][part], gradients[1][part]), phases[part], first_known=start > 0)


def _slope(levels: ndarray, axis: int) -> ndarray:
    """The derivative along an axis, in a unit of one cell."""
    return numpy.gradient(levels, axis=axis) if levels.shape[axis] > 1 else numpy.zeros_like(levels)


def _integrate_part(levels: ndarray, gradients: tuple[ndarray, ndarray], phases: ndarray, first_known: bool) -> None:
    """Set the `phases` of some columns; with `first_known`, those of the first column are known already.

    `gradients` are the derivatives of the phases by frequency and by column.
    """
    cells, root = numpy.arange(levels.size).reshape(levels.shape), levels.size
    audible = levels > math.log(_FAINTEST)
    first, second = (
        numpy.concatenate([below.ravel(), beside.ravel()])
        for below, beside in ((cells[:-1], cells[:, :-1]), (cells[1:], cells[:, 1:]))
    )
    both = audible.ravel()[first] & audible.ravel()[second]
    first, second, heard = first[both], second[both], cells[audible]
    known = numpy.zeros_like(audible)
    known[:, 0] = first_known
    # A minimum spanning tree: the loudest edges are the lightest ones. The root is tied to cells with known phases by
    # edges that are lighter than all others, and to all cells by heavier ones, of which each part needs one.
    both_levels = (levels.ravel()[first] + levels.ravel()[second]) / 2
    weights = [1 - both_levels, numpy.where(known[audible], 0.5, 100 - levels[audible])]
    rows, columns = numpy.concatenate([first, numpy.full_like(heard, root)]), numpy.concatenate([second, heard])
    graph = coo_array((numpy.concatenate(weights), (rows, columns)), shape=(root + 1, root + 1))
    _, parents = breadth_first_order(minimum_spanning_tree(graph.tocsr()), root, directed=False)
    # The difference of a cell and its parent: the mean of the gradients of both.
    parent = parents[heard]
    begins = parent == root
    inner = numpy.where(begins, heard, parent)
    across = heard // levels.shape[1] != inner // levels.shape[1]
    gradient = numpy.where(across, *((each.ravel()[heard] + each.ravel()[inner]) / 2 for each in gradients))
    total, ancestors = numpy.zeros(root + 1), numpy.full(root + 1, root)
    total[heard] = numpy.where(begins, numpy.where(known, phases, 0)[audible], gradient * numpy.sign(heard - inner))
    ancestors[heard] = parent
    while (ancestors != root).any():  # sums along paths of 1, 2, 4, ... cells
        total, ancestors = total + total[ancestors], ancestors[ancestors]
    phases[audible] = numpy.remainder(total[heard], 2 * math.pi)


def consistent(
    start: Tensor,
    magnitudes: Tensor,
    fft: int,
    hop: int,
    length: int,
    iterations: int,
    momentum: float = 0.0,
    given: Callable[[Tensor], Tensor] = lambda waveform: waveform,
) -> Tensor:
    """The waveform `[..., length]` whose transform is like one with these `magnitudes` and the phases of `start`.

    `start` is complex `[..., F, columns]`. An iteration (Griffin & Lim 1984) takes the phases of the transform of the
    waveform for the magnitudes, and `given` replaces those samples that are known. With a `momentum` a, the phases are
    those of c - a / (1 + a) c', where c and c' are this transform and the previous one (Perraudin et al. 2013).
    """
    window = torch.hann_window(fft, dtype=magnitudes.dtype, device=magnitudes.device)

    def inverse(spectrum: Tensor) -> Tensor:
        waveform = torch.istft(spectrum.flatten(0, -3), fft, hop, window=window, length=length)
        return waveform.view(*spectrum.shape[:-2], length)

    found, previous = inverse(with_phases(magnitudes, start)), torch.zeros_like(start)
    for _ in range(iterations):
        spectrum = torch.stft(given(found).flatten(0, -2), fft, hop, window=window, return_complex=True).view_as(start)
        found = inverse(with_phases(magnitudes, spectrum - momentum / (1 + momentum) * previous))
        previous = spectrum
    return found


def with_phases(magnitudes: Tensor, spectrum: Tensor) -> Tensor:
    """Complex numbers with these magnitudes and the phases of the spectrum."""
    return magnitudes * spectrum / spectrum.abs().clamp(min=1e-12)
