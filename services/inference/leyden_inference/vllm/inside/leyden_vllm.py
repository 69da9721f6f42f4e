"""Runs inside vLLM's workers: ``--worker-extension-cls leyden_vllm.Weights``, this folder on PYTHONPATH.

On a CPU vLLM multiplies with packed copies of the weights. Reloading packs every layer anew that the
checkpoint has tensors for; a head tied to the embedding has none and would go on with the old weights.

There, with adapters enabled, it also adds the head's adapters to the logits of a prompt as if they were those
of the tokens being sampled, and ends where their numbers differ: when a probe is not the only request.
"""

from typing import Any


def _leave_prompts_alone(wrapper: Any) -> None:
    """Add a head's adapters only to the tokens being sampled; those that learners publish have none."""
    add_lora_logits = wrapper.add_lora_logits

    def instead(self: Any, y: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        rows, sampled = x.numel() // x.shape[-1], self.sampler_indices.numel()
        if sampled in (1, rows):
            return add_lora_logits(self, y, x, *args, **kwargs)
        return y

    wrapper.add_lora_logits = instead


try:
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU  # type: ignore[import-not-found]
except ImportError:
    pass
else:
    _leave_prompts_alone(PunicaWrapperCPU)


class Weights:
    """Mixed into vLLM's worker, whose ``reload_weights`` and ``get_model`` it uses."""

    def leyden_reload(self: Any, weights_path: str) -> None:
        """Replace all weights by those of a folder, heads that share the embedding's included."""
        self.reload_weights(weights_path=weights_path)
        for layer in self.get_model().modules():
            weight, method = getattr(layer, "weight", None), getattr(layer, "quant_method", None)
            if "cpu_linear" in vars(layer) and weight is not None and weight.numel() and method is not None:
                method.process_weights_after_loading(layer)
