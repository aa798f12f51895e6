"""TFDS builders: one file a data set, each writes a data set directory that `FeatureStore` reads."""
