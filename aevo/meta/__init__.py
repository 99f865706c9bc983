"""The meta step: who proposes the next policy, by rules or by a language model."""
