"""Batches for training, drawn by (seed, index).

The words: a *window* is a span of a video of fixed length; a *moment* is an annotated span in which an event happens. A
*clip* is one window with one question about it and its answer. A *group* is several windows (or whole videos) with one
question about all of them. A *stream* makes batches of one kind, clips or groups of one size; a *pipeline* reads the
batches of all streams of a run. A *train split* is a prepared split as the streams draw from it.
"""
