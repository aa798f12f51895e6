"""The feature store: CLIP features of videos on disk, and the manifest that says what they are."""
