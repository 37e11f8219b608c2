"""As much of TRex's Python API as the profiles and drive.py use, with its names, arguments and checks: for scripts/trex/check only."""
