"""The learner benchmark: a GRPO step of ours, of TRL and of verl's engine, on the same batch and model."""
