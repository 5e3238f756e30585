"""The contract of the overlay: instructions, numerics, machine descriptions, programs and records.

Everything in this package needs Python and NumPy only; the compiler, the hardware generator and the simulators
meet in the data that it defines.
"""

__version__ = "0.1.0"
