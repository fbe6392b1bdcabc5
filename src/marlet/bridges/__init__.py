"""Environments of other libraries played by Marlet, and Marlet's environments played by others."""
