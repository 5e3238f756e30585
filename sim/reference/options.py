"""What the reference engine takes: nothing."""

from sim.engine import Options as Options
