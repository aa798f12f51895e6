"""How the shipped tiny parts were made: tokenizer, CLIP, LLM, projector. Re-runnable: `python -m revision_jax.pretrain`."""
