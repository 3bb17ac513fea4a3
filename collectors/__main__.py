"""`python -m collectors`: the same as `tokendash`."""

import sys

from collectors.main import main

if __name__ == "__main__":
    sys.exit(main())
