"""Playback of a run in a browser: orders move along a time axis towards their limit.

`run_playback.py` builds the data, `race.js` draws it, `player.js` has the controls, `document.py` makes a
page of them.
"""
