"""Units that the machine does not use, for comparison: FP16 mantissa products packed in pairs, and FP16 multiply-adds."""

from hw.pe.variants.aligned import AlignedDot as AlignedDot
from hw.pe.variants.half_dot import HalfDot as HalfDot
from hw.pe.variants.half_multiply_add import HalfMultiplyAdd as HalfMultiplyAdd
from hw.pe.variants.transposing import Transposing as Transposing
