"""The learner: one process that trains one policy on the samples of the log and publishes its versions."""
