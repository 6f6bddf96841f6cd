"""Clips to frames, sound and subtitles, decoded in a child process: `reader.MediaReader` yields what `events` lists.

Nothing is imported here: the child loads this package too, and starts twice as fast without NumPy.
"""
