"""Every format and operation that fixes bits, defined once in NumPy; the RTL takes widths and tables from here."""
