"""How much the metrics of this process grew."""

from itertools import chain

from prometheus_client import REGISTRY


class Growth:
    """The growth of one counter since this was made, for the values of one ``label``, whatever the others."""

    def __init__(self, name: str, label: str, **others: str) -> None:
        self._name, self._label, self._others = name, label, others
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        sums: dict[str, float] = {}
        for sample in chain.from_iterable(family.samples for family in REGISTRY.collect()):
            if sample.name == self._name and self._others.items() <= sample.labels.items():
                value = sample.labels[self._label]
                sums[value] = sums.get(value, 0.0) + sample.value
        return sums

    def __call__(self) -> dict[str, float]:
        """By value of the label; what did not grow is left out."""
        grown = {key: now - self._before.get(key, 0.0) for key, now in self._now().items()}
        return {key: by for key, by in grown.items() if by}
