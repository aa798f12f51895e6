"""Video files: frames on the file's own clock, and their CLIP features."""
