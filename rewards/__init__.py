"""Rewards: pure functions of a `envs.rollout.Rollout`. No model is loaded here."""
