"""The internal covariate shift of any torch model: captured, measured, bounded and judged."""

# Messages and the documentation name these by their full names, which `import icsbound` alone is to make good.
from icsbound.measure import estimates as estimates
from icsbound.measure import sinks as sinks
