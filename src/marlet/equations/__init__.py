"""Pure functions of arrays: the mathematics, one function a formula."""
