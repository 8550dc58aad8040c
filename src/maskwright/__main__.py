"""`python -m maskwright`, which is what `torchrun -m maskwright` starts."""

from maskwright.cli import main

if __name__ == "__main__":
    main()
