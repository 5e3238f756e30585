"""``python -m skipopu``."""

try:
    import sys

    from skipopu.cli import main

    code = main()
except KeyboardInterrupt:
    code = 130
sys.exit(code)
