"""The sampler: which positions of the order belong to this rank, and where it stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler

from .._core.checks import count, flag, integer
from ..kernels.noise import words
from ..noise import KeyedNoise
from ._orders import Mark, WithoutReplacement, WithReplacement
from ._weights import Spread, as_weights

__all__ = ["WeightedSampler"]

LEAST_BUCKET = 1 << 20
MOST_SCANS = 64  # of the weights for a whole order
AS_INTEGERS = 1 << 14  # indices that are Python integers at a time


class WeightedSampler(Sampler[int]):
    r"""Items in the order of the times ``E[i] / weights[i]``, with exponential noise E: a weighted order of a data set.

    The first item is drawn with probability ``weights[i] / sum(weights)``, the next in the same way from the items that
    remain, and so on: sampling without replacement, the Plackett-Luce law. An item of weight 0 never comes. With
    ``replacement=True`` each draw is from all items.

    The sequence is a pure function of the weights, the seed and the epoch. Ranks (the processes that train together)
    take every ``ranks``-th position of this one sequence: rank r takes the positions r, r + ranks, r + 2 ranks, ... So
    the sequence is the same for any number of ranks, and a run can go on with another number. A state counts positions.

    The weights are not copied, and they may lie in a file (``numpy.memmap``, ``torch.from_file``). There is no limit of
    2^24 items. The order is made a bucket at a time: one pass over the weights finds the items that come between two
    times, and only these items are sorted.

    Used in place of ``torch.utils.data.WeightedRandomSampler``, mind that ``replacement`` is True there by default.
    Classes are balanced over an epoch by ``replacement=True``, or by ``num_samples`` well below the number of items: an
    order of all items holds every item once.

    Args:
        weights: shape ``(n,)``: finite numbers of at least 0, as a tensor, a NumPy array or a list. float32 and float64
            on the CPU are used where they lie; other dtypes and devices are copied. They must stay the same while an
            order is drawn.
        num_samples: how many positions of the sequence make an epoch, all ranks together. Default: without replacement
            the number of items of positive weight; with replacement n.
        replacement: whether an item may come again.
        ranks: the number of ranks. Default: the world size of ``torch.distributed`` if it is initialised, else 1.
        rank: which of them this is. Default: the rank in ``torch.distributed`` if it is initialised, else 0.
        drop_last: what happens where ``num_samples`` is not a multiple of ``ranks``. All ranks get equally many indices
            in either case. True: the positions that are left over are dropped. False: the sequence goes on beyond
            ``num_samples`` until all ranks have equally many; where no items are left, the order begins again.
        seed: any 64-bit integer, the same on all ranks.
        bucket: how many items of the order are made at a time, on average. A large bucket needs memory, 8 bytes an item
            and about 60 for the moment of sorting; a small bucket needs more passes over the weights. Default:
            ``max(2**20, n // 64)``.

    Raises:
        ValueError: a weight that is negative, infinite or NaN; no positive weight; more samples than items of positive
            weight; a rank that is none of the ranks.
        TypeError: weights are not numbers, or another argument is not an integer.

    Example:
        >>> import torch, argumbel as ag
        >>> weights = torch.tensor([1.0, 0.0, 5.0, 1.0, 2.0])
        >>> sampler = ag.data.WeightedSampler(weights)
        >>> order = list(sampler)
        >>> sorted(order)
        [0, 2, 3, 4]
        >>> times = sampler.noise.exponential((1, 5), dtype=torch.float64)[0] / weights
        >>> order == times.argsort()[:4].tolist()
        True

        Two ranks, that go on as three:

        >>> halves = [ag.data.WeightedSampler(torch.ones(1000), ranks=2, rank=r) for r in range(2)]
        >>> begun = [torch.cat([next(half.indices(50))]) for half in halves]
        >>> state = halves[0].state_dict()
        >>> state["position"]
        100
        >>> third = ag.data.WeightedSampler(torch.ones(1000), ranks=3, rank=1)
        >>> third.load_state_dict(state)
        >>> next(iter(third)) == list(ag.data.WeightedSampler(torch.ones(1000)))[101]
        True

    Source: Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir"; Yellott 1977, "The relationship
    between Luce's choice axiom, Thurstone's theory of comparative judgment, and the double exponential distribution".
    """

    def __init__(
        self,
        weights: Any,
        num_samples: int | None = None,
        replacement: bool = False,
        *,
        ranks: int | None = None,
        rank: int | None = None,
        drop_last: bool = False,
        seed: int = 0,
        bucket: int | None = None,
    ) -> None:
        self._seed = int(KeyedNoise(integer("seed", seed)).seed)
        self.ranks, self.rank = _ranks(ranks, rank)
        self.drop_last, self.replacement = flag("drop_last", drop_last), flag("replacement", replacement)
        bucket = None if bucket is None else count("bucket", bucket, least=1)
        self.weights = as_weights(weights)
        spread = Spread(self.weights)
        self._fingerprint = spread.fingerprint
        if replacement:
            self._sequence: WithReplacement | WithoutReplacement = WithReplacement(self.weights)
            default, most = len(self.weights), None
        else:
            bucket = bucket or max(LEAST_BUCKET, len(self.weights) // MOST_SCANS)
            self._sequence = WithoutReplacement(self.weights, spread, bucket)
            default = most = spread.items
        self.num_samples = default
        if num_samples is not None:
            of = "the number of items of positive weight, "
            self.num_samples = count("num_samples", num_samples, least=1, most=most, of=of)
        self._epoch = 0
        self._go_to(0, self._sequence.first)
        self._is_resumed = False

    def __len__(self) -> int:
        """How many indices this rank gets in a whole epoch; also after a state was loaded in the middle of one."""
        return self._left(0)

    @property
    def epoch(self) -> int:
        """The epoch of the indices that were handed out last."""
        return self._epoch

    @property
    def noise(self) -> KeyedNoise:
        """The noise of the epoch, from a seed that is a hash of (seed, epoch).

        Without replacement, item i comes at time ``noise.exponential((1, n), dtype=torch.float64)[0, i] / weights[i]``.
        """
        use = torch.tensor([1 if self.replacement else 0], device="cpu")
        seed, epoch = (torch.tensor(x, dtype=torch.int64, device="cpu") for x in (self._seed, self._epoch))
        high, low = (int(words(seed, epoch, use, stream)) for stream in (0, 1))
        return KeyedNoise(high << 32 | low, rows=[0])

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is the sequence of this epoch, from its first position.

        From the position of the state, if a state in the middle of the same epoch was loaded just before. Without this
        call an iteration after a finished one takes the next epoch, and an iteration after one that was broken off
        begins the same epoch again.

        Args:
            epoch: an integer of at least 0.
        """
        epoch = count("epoch", epoch)
        if not (self._is_resumed and epoch == self._epoch and self._left(self._start)):
            self._epoch = epoch
            self._go_to(0, self._sequence.first)

    def state_dict(self, taken: int | None = None) -> dict[str, Any]:
        """The place in the sequence, the same on all ranks that have taken equally many indices.

        Args:
            taken: how many indices of this rank have been used since the iteration began. Default: all that were handed
                out. A ``DataLoader`` with workers is ahead of the training: count the batches, and pass batches times
                batch size.

        Returns:
            a dictionary of numbers, for any sampler of the same weights, seed and ``replacement``, whatever its ranks.
        """
        given = self._taken if taken is None else count("taken", taken)
        position = self._start + given * self.ranks
        mark = next(mark for mark in reversed(self._marks) if mark.before <= position)
        return {
            "seed": self._seed,
            "replacement": self.replacement,
            "weights": self._fingerprint,
            "epoch": self._epoch,
            "position": position,
            "before": mark.before,
            "time": mark.time,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iteration goes on where the state was taken; if nothing is left there, with the next epoch.

        Args:
            state: what ``state_dict`` returned, here or on another rank.

        Raises:
            ValueError: the state is of another seed, of other weights, or of the other kind of sequence.
        """
        own = self.state_dict()
        missing = [name for name in own if name not in state]
        if missing:
            raise ValueError(f"state must be what state_dict() returned, but it has no {missing[0]!r}; pass all of it")
        for name in ("seed", "replacement", "weights"):
            if state[name] != own[name]:
                what = f"be of the same {name}"
                raise ValueError(
                    f"state must {what} as the sampler, {own[name]!r}, but it is of {state[name]!r}; make the sampler "
                    "with the arguments of the sampler that gave the state"
                )
        self._epoch = count("epoch", state["epoch"])
        self._go_to(count("position", state["position"]), Mark(int(state["before"]), float(state["time"])))
        self._is_resumed = True

    def indices(self, batch_size: int | None = None) -> Iterator[Tensor]:
        """The indices of an iteration, many at a time: what ``iter`` gives one by one.

        Args:
            batch_size: how many are in a tensor, less in the last. Default: as many as are at hand.

        Returns:
            an iterator of int64 tensors of shape ``(batch_size,)``.
        """
        if batch_size is not None:
            count("batch_size", batch_size, least=1)
        return self._batches(batch_size)

    def __iter__(self) -> Iterator[int]:
        for piece in self._pieces():
            for part in piece.split(AS_INTEGERS):
                for index in part.tolist():
                    self._taken += 1
                    yield index

    def _batches(self, size: int | None) -> Iterator[Tensor]:
        kept: list[Tensor] = []
        room = size or 0
        for piece in self._pieces():
            while len(piece) and size is not None:
                part, piece = piece[:room], piece[room:]
                kept.append(part)
                room -= len(part)
                if not room:
                    self._taken += size
                    yield torch.cat(kept) if len(kept) > 1 else part
                    kept, room = [], size
            if size is None:
                self._taken += len(piece)
                yield piece
        if kept:
            last = torch.cat(kept)
            self._taken += len(last)
            yield last

    def _pieces(self) -> Iterator[Tensor]:
        """The indices of this rank from where the iteration begins."""
        is_finished = self._position > 0 and not self._left(self._position)
        if is_finished:
            self._epoch += 1
        if is_finished or not self._is_resumed:
            self._go_to(0, self._sequence.first)
        else:
            self._go_to(self._start, self._marks[0])
        first = self._start + self.rank
        positions = range(first, self._start + self._left(self._start) * self.ranks, self.ranks)
        yield from self._sequence.take(self.noise, positions, self._marks)

    @property
    def _position(self) -> int:
        return self._start + self._taken * self.ranks

    def _left(self, position: int) -> int:
        """How many indices each rank gets from a position on."""
        left = max(0, self.num_samples - position)
        return left // self.ranks if self.drop_last else -(-left // self.ranks)

    def _go_to(self, position: int, mark: Mark) -> None:
        """An iteration is to begin here."""
        self._start, self._taken, self._marks, self._is_resumed = position, 0, [mark], False


def _ranks(ranks: int | None, rank: int | None) -> tuple[int, int]:
    if ranks is None and rank is None:
        if dist.is_available() and dist.is_initialized():
            return dist.get_world_size(), dist.get_rank()
        return 1, 0
    if ranks is None or rank is None:
        name, given = ("rank", "ranks") if rank is None else ("ranks", "rank")
        raise ValueError(f"{name} must be given where {given} is, but it is None; pass both or neither")
    ranks = count("ranks", ranks, least=1)
    return ranks, count("rank", rank, most=ranks - 1, of="ranks - 1, ")
