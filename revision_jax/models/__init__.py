"""Models: arrays in, arrays out. Nothing here knows of files, flags or meshes.

Every parameter is an `nnx.Param` with an `axes` metadata: one logical axis name (or None) a dimension.
`parallel/rules.py` maps these names to mesh axes:

    layers      the stacked layers of a tower or decoder; scanned, never sharded
    embed       a model's width (the residual stream)
    heads       (query heads x head width), folded into one dimension
    kv_heads    (key heads x head width), folded; may be smaller under grouped-query attention
    mlp         the inner width of an MLP
    vocab       token embeddings and the LM head
    visual      width of visual features (CLIP's projection, the adapter's input)
    norm        scales and biases of norms
    lora        a LoRA's rank
    lora_in     a LoRA A's input (replicated: sharding the thin matrices costs more loops than it saves)
    lora_out    a LoRA B's output (likewise)
"""
