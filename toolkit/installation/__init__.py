"""The checks of `python -m toolkit.doctor`: installed packages, what computes, disk and downloaded weights."""
