"""A moving average of the weights: smoother than they are, and what is published instead of them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class MovingAverage:
    """After every step average = decay * average + (1 - decay) * weights, beginning with the weights.

    Held in fp32 and, like the weights, in parts where several ranks train.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self._parameters, self._decay = parameters, decay
        self.values = {name: value.detach().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def follow(self) -> None:
        """Take in the weights after a step."""
        for name, average in self.values.items():
            average.lerp_(self._parameters[name], 1.0 - self._decay)

    @contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """Inside the block the weights are the average and the average is the weights, bit for bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, average in self.values.items():
            weights = self._parameters[name]
            kept = weights.clone()
            weights.copy_(average)
            average.copy_(kept)
