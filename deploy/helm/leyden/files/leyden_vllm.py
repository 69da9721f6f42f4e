"""Runs inside vLLM's workers: ``--worker-extension-cls leyden_vllm.Weights``, this folder on PYTHONPATH.

On a CPU vLLM multiplies with packed copies of the weights. Reloading packs every layer anew that the
checkpoint has tensors for; a head tied to the embedding has none and would go on with the old weights.
"""

from typing import Any


class Weights:
    """Mixed into vLLM's worker, whose ``reload_weights`` and ``get_model`` it uses."""

    def leyden_reload(self: Any, weights_path: str) -> None:
        """Replace all weights by those of a folder, heads that share the embedding's included."""
        self.reload_weights(weights_path=weights_path)
        for layer in self.get_model().modules():
            weight, method = getattr(layer, "weight", None), getattr(layer, "quant_method", None)
            if "cpu_linear" in vars(layer) and weight is not None and weight.numel() and method is not None:
                method.process_weights_after_loading(layer)
