"""Search: from a video's features and sentences to ranked moments, in one jitted program of fixed shapes."""
