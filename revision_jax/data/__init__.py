"""Data: video files -> frames -> CLIP features -> feature store -> clips -> Grain batches."""
