"""How the shipped tiny parts were made: tokenizer, CLIP, LLM, projector. Run `python -m revision_jax.pretrain`."""
